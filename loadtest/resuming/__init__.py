"""Measure how the text of live streams changes when they lose their server."""
