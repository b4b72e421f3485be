"""Make unary gRPC calls at a fraction of the CPU time of gRPC's own Python package."""
