"""Adapt a checkpoint to the recordings of one customer, with a low-rank adapter or completely."""
