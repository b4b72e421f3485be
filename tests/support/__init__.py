"""Fakes, small checkpoints and comparisons that tests share."""
