"""Export a checkpoint to a Triton model repository, and compare the result with the original.

This package and `training` are the only ones that import transformers. Run it as
`python -m export CHECKPOINT --repository DIR`.
"""
