"""The version of the installed distribution; client/pyproject.toml alone states it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("earshot-client")
except PackageNotFoundError:
    # Imported from a checkout that is only on the path, as on GPU machines without network.
    __version__ = "unknown"
