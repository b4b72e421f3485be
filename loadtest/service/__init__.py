"""Access the server under test: its process, its metrics and its stages."""
