"""Offer more live streams than the server can serve, and check those that it admits."""
