"""Define the shapes of states for stages and configs, without importing torch, which is slow."""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT_TOKENS = 8
"""Number of tokens before the chunk that the decoder passes on, as the text conversion keeps
none."""
ADAPTER_COLUMNS = 64
"""Number of values per rank in a row of an adapter. The sizes of nearly all layers are multiples of
it, so their matrices fill whole rows, and a row is large enough to be copied fast."""
DTYPE_BYTES = {"FP32": 4, "FP16": 2, "BF16": 2}


@dataclass(frozen=True)
class StateLayout:
    """Shape of one stream's state: `rows` rows of `width` values, all zero at start.

    The last rows may be rings of `ring_blocks` rows each; a step then replaces all rows before
    the rings, and in every ring the same block.
    """

    rows: int
    width: int
    rings: int = 0
    ring_blocks: int = 0
    dtype: str = "FP32"
    """Triton's name of the type; the bundled backend on ONNX Runtime supports FP32 only."""

    @property
    def size(self) -> int:
        """Return the number of values per stream."""
        return self.rows * self.width

    @property
    def bytes(self) -> int:
        """Return the memory per stream."""
        return self.size * DTYPE_BYTES[self.dtype]

    @property
    def replaced_rows(self) -> int:
        """Return the number of rows before the rings, which every step replaces."""
        return self.rows - self.rings * self.ring_blocks


@dataclass(frozen=True)
class AdapterLayout:
    """Shape of one adapter in a stage: `rows` rows of `width` values, all zero for the base."""

    rows: int
    width: int
    dtype: str = "FP32"
    """Triton's name of the type, which is that of the weights."""
