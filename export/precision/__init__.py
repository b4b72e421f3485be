"""Keep values within float16: rescale layers that would exceed it, refuse models close to it."""
