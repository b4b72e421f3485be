"""Comparisons with other tools and recognizers."""
