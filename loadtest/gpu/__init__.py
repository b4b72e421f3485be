"""Measure one GPU, in steps that fit a short lease."""
