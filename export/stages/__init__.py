"""The stages of a recognizer; those for live streams are pure functions of a chunk and a state."""
