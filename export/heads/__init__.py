"""Export heads: classifiers on the encoder's frames, served beside the decoder of a recognizer."""
