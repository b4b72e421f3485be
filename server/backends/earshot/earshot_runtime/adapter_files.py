"""Read the adapters that are installed in the model repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from .errors import BadAdapter, UnknownAdapter
from .spec import AdapterSpec

_WEIGHTS = Path("1", "adapter.safetensors")
# The name comes from a client: it must not lead out of the repository.
_NAME = re.compile(r"[a-z0-9_]+")
_MOST_LISTED = 20
_MOST_OPENED = 100
"""Most files that the stage opens to list the adapters: any client can send an unknown name."""


@dataclass(frozen=True)
class AdapterFile:
    """One version of an adapter's file; another version with the same name is another adapter."""

    name: str
    path: Path
    inode: int
    modified_ns: int


class AdapterFiles:
    """The adapters of one stage: files `<name>_<ensemble>/1/adapter.safetensors`."""

    def __init__(self, repository: Path, spec: AdapterSpec) -> None:
        self._repository = repository
        self._spec = spec

    def find(self, name: str) -> AdapterFile:
        """Return the current file of an adapter, or raise UnknownAdapter."""
        path = self._repository / f"{name}_{self._spec.ensemble}" / _WEIGHTS
        try:
            if not _NAME.fullmatch(name):
                raise FileNotFoundError(name)
            status = path.stat()
        except OSError:
            raise UnknownAdapter(
                f"this server has no adapter '{name}'; it has {self._listed()}: install it there "
                "with `python -m export.adapters`"
            ) from None
        return AdapterFile(name, path, status.st_ino, status.st_mtime_ns)

    def read(self, file: AdapterFile) -> list[npt.NDArray[np.float32]]:
        """Return the adapter's rows [rows, width] for each pool, or raise BadAdapter."""
        try:
            with safe_open(file.path, "np") as tensors:
                base = _base_of(tensors)
                if base != self._spec.base:
                    raise BadAdapter(
                        f"the adapter '{file.name}' was installed for other weights "
                        f"({base[:12]}) than this server has ({self._spec.base[:12]}): install it "
                        "again with `python -m export.adapters`"
                    )
                read = [tensors.get_tensor(part) for part in self._spec.parts]
        except OSError as error:  # its own message has the path
            raise BadAdapter(
                f"the adapter '{file.name}' cannot be read: {error.strerror or 'it is gone'}"
            ) from error
        except (SafetensorError, TypeError) as error:  # TypeError: a type that numpy lacks
            raise BadAdapter(f"the adapter '{file.name}' cannot be read: {error}") from error
        return [self._checked(file, *pair) for pair in zip(read, self._spec.shapes, strict=True)]

    def _checked(
        self, file: AdapterFile, rows: npt.NDArray[Any], shape: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        if rows.dtype != np.float32 or rows.shape != shape or not np.isfinite(rows).all():
            raise BadAdapter(
                f"the adapter '{file.name}' does not fit this model: expected finite float32 "
                f"{list(shape)}, got {rows.dtype} {list(rows.shape)}; install it again"
            )
        return rows

    def _listed(self) -> str:
        """Return the names of the adapters of this base, or the first of many."""
        suffix = f"_{self._spec.ensemble}"
        paths = sorted(self._repository.glob(f"*{suffix}/{_WEIGHTS}"))
        opened = paths[:_MOST_OPENED]
        found = list(islice(filter(self._is_of_this_base, opened), _MOST_LISTED + 1))
        names = [path.parents[1].name.removesuffix(suffix) for path in found]
        more = ["..."] if names[_MOST_LISTED:] or len(paths) > len(opened) else []
        return ", ".join([*names[:_MOST_LISTED], *more]) or "none"

    def _is_of_this_base(self, path: Path) -> bool:
        try:
            with safe_open(path, "np") as tensors:
                return _base_of(tensors) == self._spec.base
        except (OSError, SafetensorError):
            return False


def _base_of(tensors: Any) -> str:
    """Return the hash of the base weights for which an adapter was installed."""
    return (tensors.metadata() or {}).get("base_sha256", "")
