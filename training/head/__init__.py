"""Train heads: small classifiers on the frames of an encoder, which stays as it is."""
