"""Stages of a recognizer; those for live streams are pure functions of one chunk and a state."""
