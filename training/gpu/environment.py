"""Prepare a GPU machine's environment before the first import of transformers."""

import importlib.util
import sys

OPTIONAL_PACKAGES = ("sklearn", "scipy", "librosa", "torchvision", "pandas", "cupy", "jax", "flax")


def hide_optional_packages() -> None:
    """Block imports of optional packages that were built for another numpy than the bundled one.

    transformers imports them if they are installed, but training uses none of them.
    """
    for name in OPTIONAL_PACKAGES:
        if name not in sys.modules and importlib.util.find_spec(name) is not None:
            sys.modules[name] = None  # type: ignore[assignment]
