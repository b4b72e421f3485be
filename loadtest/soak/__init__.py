"""Hold a level for a long time, with streams that begin, end, vanish and stall."""
