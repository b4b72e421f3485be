"""Errors of the exporter.

ExportError
├── UnsupportedCheckpoint   the checkpoint cannot be read, or is of an unsupported architecture
├── UnsupportedOption       the checkpoint or the machine does not support an option
└── GateFailed              nothing was installed
    ├── ParityFailed        the output of the exported stages differs from the original
    ├── GraphRefused        an ONNX graph holds something that TensorRT does not support
    └── BuildFailed         TensorRT built no engine

A user's mistake ends the command with exit code 2, a failed gate with exit code 1; neither with a
traceback.
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of all errors that the exporter raises on purpose."""


class UnsupportedCheckpoint(ExportError):
    """The checkpoint is missing, incomplete or of an architecture that is not supported."""


class UnsupportedOption(ExportError):
    """The checkpoint or the machine does not support an option."""


class GateFailed(ExportError):
    """The exported models must not be installed."""


class ParityFailed(GateFailed):
    """A stage or the chain differs from the reference by more than its tolerance."""


class GraphRefused(GateFailed):
    """An ONNX graph holds something that TensorRT does not support; the message names the node."""


class BuildFailed(GateFailed):
    """TensorRT built no engine; the message holds its log."""
