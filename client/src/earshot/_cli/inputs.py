"""The options of `earshot transcribe` that describe the content of the files."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .._errors import InvalidAudio
from .._files import STDIN, display_name
from .._format import AudioFormat

# The rate of telephony.
_DEFAULT_RATE_HZ = 8000.0


class RawEncoding(str, Enum):  # noqa: UP042 (Python 3.10 has no StrEnum)
    """The encoding of a file without a header."""

    linear16 = "linear16"
    mulaw = "mulaw"
    alaw = "alaw"


@dataclass(frozen=True)
class Input:
    """The format of the files, and the channels to transcribe."""

    form: AudioFormat | None
    """The format of files without a header; None if they have headers."""
    channel: int | None
    """The channel to transcribe, from 1; None averages all."""
    split: bool
    """True to transcribe each channel separately."""


@dataclass(frozen=True)
class Recording:
    """A file, or one channel of it."""

    path: Path
    channel: int | None = None

    @property
    def label(self) -> str:
        """Return the name for messages and output."""
        name = "stdin" if str(self.path) == STDIN else display_name(self.path)
        return name if self.channel is None else f"{name} (channel {self.channel})"


Encoding = Annotated[
    RawEncoding | None,
    typer.Option(
        "--encoding",
        help="Encoding of files without a header: int16 (linear16), or mu-law or A-law of G.711.",
    ),
]
SampleRate = Annotated[
    float | None,
    typer.Option(
        "--sample-rate-hz", help=f"Rate of files without a header. [default: {_DEFAULT_RATE_HZ:g}]"
    ),
]
Channels = Annotated[
    int | None, typer.Option("--channels", help="Channels of files without a header. [default: 1]")
]
Channel = Annotated[
    int | None,
    typer.Option(min=1, help="Transcribe this channel, from 1, instead of the average of all."),
]
SplitChannels = Annotated[
    bool, typer.Option("--split-channels", help="Transcribe each channel separately.")
]


def read_input(
    files: list[Path],
    encoding: RawEncoding | None,
    sample_rate_hz: float | None,
    channels: int | None,
    channel: int | None,
    split: bool,
) -> Input:
    """Return the input that the options describe; refuse options that contradict each other."""
    if split and channel is not None:
        raise typer.BadParameter("--channel and --split-channels contradict each other: pass one")
    if split and Path(STDIN) in files:
        raise typer.BadParameter("--split-channels reads a file several times: pass no pipe")
    if encoding is None:
        if sample_rate_hz is not None or channels is not None:
            raise typer.BadParameter(
                "--sample-rate-hz and --channels are for files without header: add --encoding"
            )
        return Input(None, channel, split)
    try:
        form = AudioFormat(sample_rate_hz or _DEFAULT_RATE_HZ, channels or 1, encoding.value)
    except InvalidAudio as error:
        raise typer.BadParameter(str(error)) from error
    return Input(form, channel, split)
