"""The stages of a recognizer that hears whole utterances: pure functions without state."""
