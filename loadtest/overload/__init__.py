"""Offer more live streams than the server carries, and look after those that it admits."""
