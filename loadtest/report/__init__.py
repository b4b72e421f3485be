"""Pages, tables and plans made from committed results."""
