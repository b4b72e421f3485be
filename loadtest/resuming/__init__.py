"""Live streams that lose their server, and what that changes in their text."""
