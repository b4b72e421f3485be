"""Export of a recognizer for live streams, as the ensemble `asr_streaming`."""
