"""Check the load test itself against fake services with known figures."""
