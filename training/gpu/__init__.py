"""Train the demo model on a GPU machine without network, within minutes."""
