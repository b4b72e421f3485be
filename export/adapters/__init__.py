"""Adapters beside an exported recognizer: read, checked against `transformers`, installed."""
