"""Measure how well the client finds the ends of utterances."""
