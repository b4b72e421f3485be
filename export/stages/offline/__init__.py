"""Stages of a recognizer of whole utterances: pure functions without state."""
