"""Run one stage of a recognizer, on ONNX Runtime or torch, for Triton's Python backend.

Nothing here imports Triton: `model.py` next to this package translates between Triton's requests
and the plain arrays of this package, so that every rule can be tested without a server.
"""
