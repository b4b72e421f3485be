"""Read adapters, check them against `transformers`, and install them beside their base."""
