"""The load test: capacity of the service, measured through the client with real speech."""
