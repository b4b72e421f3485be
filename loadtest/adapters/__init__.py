"""Measure what many adapters in one engine cost."""
