"""Convert tokens to text, without Triton, so that it can be tested alone."""
