"""Break a server on purpose, and see how it ends."""
