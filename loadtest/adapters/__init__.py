"""Measure the cost of many adapters in one engine."""
