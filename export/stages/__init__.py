"""The three stages of a streaming recognizer as pure functions of one chunk and a state."""
