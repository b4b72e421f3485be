"""Errors of the exporter.

ExportError
├── UnsupportedCheckpoint   the checkpoint cannot be read, or is of a kind that is not served
├── UnsupportedOption       a chunk, runtime or precision that this checkpoint or machine lacks
└── GateFailed              nothing was installed
    ├── ParityFailed        the exported stages do not say what the original says
    ├── GraphRefused        an ONNX graph holds what TensorRT does not take
    └── BuildFailed         TensorRT built no engine

A user's mistake ends the command with exit code 2, a failed gate with exit code 1; neither with a
traceback.
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of every error that the exporter raises on purpose."""


class UnsupportedCheckpoint(ExportError):
    """The checkpoint is missing, incomplete or of an architecture that is not supported."""


class UnsupportedOption(ExportError):
    """An option that this checkpoint does not support."""


class GateFailed(ExportError):
    """What was exported must not be served."""


class ParityFailed(GateFailed):
    """A stage or the chain differs from the reference by more than its tolerance."""


class GraphRefused(GateFailed):
    """An ONNX graph holds what TensorRT does not take; the message names the node."""


class BuildFailed(GateFailed):
    """TensorRT built no engine; the message holds what it said."""
