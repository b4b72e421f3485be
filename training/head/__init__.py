"""Train heads: small classifiers on the frames of a frozen encoder."""
