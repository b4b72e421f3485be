"""Train the demo checkpoint: a small English streaming recognizer."""
