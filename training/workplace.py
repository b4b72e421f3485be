"""The work folder: what preparation writes, what training reads and leaves behind."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workplace:
    """Paths inside the work folder, which lies outside the repository: it grows to gigabytes."""

    folder: Path

    @property
    def features(self) -> Path:
        """Shards of log-mel frames, see features.py."""
        return self.folder / "features"

    @property
    def tokenizer(self) -> Path:
        """The trained tokenizer."""
        return self.folder / "tokenizer"

    @property
    def state(self) -> Path:
        """Weights, optimizer and progress of the run: what a resumed run reads."""
        return self.folder / "state.pt"

    @property
    def log(self) -> Path:
        """JSON lines: losses every few steps, word error rates at every look."""
        return self.folder / "log.jsonl"

    @property
    def latest(self) -> Path:
        """The newest checkpoint, with averaged weights."""
        return self.folder / "latest"
