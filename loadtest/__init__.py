"""How much the service carries, measured through the client on real speech."""
