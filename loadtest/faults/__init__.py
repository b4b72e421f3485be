"""Break a server on purpose, and observe how it ends."""
