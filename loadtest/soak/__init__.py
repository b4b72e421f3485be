"""Hold a level for a long time, with streams that begin, end, stall and vanish."""
