"""Checkpoint in, served model out: stages, ONNX, parity gates and Triton configs.

The only package of the project that imports torch and transformers. Run it as
`python -m export CHECKPOINT --repository DIR`.
"""
