"""Recipe of the demo checkpoint: a small English streaming recognizer, trained on a CPU."""
