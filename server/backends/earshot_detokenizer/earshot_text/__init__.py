"""Tokens to text, free of Triton so that it can be tested alone."""
