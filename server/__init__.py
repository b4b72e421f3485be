"""Start Triton with the backends that a model repository of this project needs.

`python -m server --repository DIR` serves in the foreground; `server.launch.running` does the same
for the length of a `with` block.
"""

__version__ = "0.2.0.dev0"
"""The version of the client, repeated here because a server's container has no copy of it."""
