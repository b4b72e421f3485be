"""Load test of the service: its capacity, measured through the client with real speech."""
