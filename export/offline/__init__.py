"""Export of a recognizer for whole utterances, as the ensemble `asr_offline`."""
