"""Start Triton with the backends that a model repository of this project needs.

`python -m server --repository DIR` serves in the foreground; `server.launch.running` does the same
for the length of a `with` block.
"""
