"""Recordings, scripts for live users, and word errors."""
