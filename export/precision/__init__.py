"""Range of float16: rescale layers that would leave it, refuse models that come near its end."""
