"""Derive replicas, chart values and a simulated day from a measured capacity."""
