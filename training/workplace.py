"""Name the files of the work folder, in which preparation and training write."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workplace:
    """Paths in the work folder, which is outside the repository because it grows to gigabytes."""

    folder: Path

    @property
    def features(self) -> Path:
        """Return the folder of shards of log-mel frames; see features.py."""
        return self.folder / "features"

    @property
    def tokenizer(self) -> Path:
        """Return the folder of the tokenizer."""
        return self.folder / "tokenizer"

    @property
    def state(self) -> Path:
        """Return the file of weights, optimizer and progress, which a resumed run reads."""
        return self.folder / "state.pt"

    @property
    def log(self) -> Path:
        """Return the log: losses every few steps and held-out word error rates, as JSON lines."""
        return self.folder / "log.jsonl"

    @property
    def latest(self) -> Path:
        """Return the folder of the newest checkpoint, with averaged weights."""
        return self.folder / "latest"
