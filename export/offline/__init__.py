"""The road of a recognizer that hears whole utterances, to the ensemble ``asr_offline``."""
