"""Adapt a checkpoint to one customer's recordings, with a low-rank adapter or completely."""
