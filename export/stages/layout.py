"""What the stages agree on with the server's configs; without torch, which is slow to load."""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT_TOKENS = 8
"""Tokens that the decoder hands on to the detokenizer, so that it can be stateless (see its model).
"""
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
    """Triton's name of the type; on ONNX Runtime the bundled backend keeps FP32 only."""

    @property
    def size(self) -> int:
        """Values per stream."""
        return self.rows * self.width

    @property
    def bytes(self) -> int:
        """Memory per stream."""
        return self.size * DTYPE_BYTES[self.dtype]

    @property
    def replaced_rows(self) -> int:
        """Rows in front of the rings, which every step replaces."""
        return self.rows - self.rings * self.ring_blocks
