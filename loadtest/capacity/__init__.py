"""The search for the largest count of live streams that a server sustains."""
