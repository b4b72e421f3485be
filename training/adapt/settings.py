"""The options of an adaptation, passed as one frozen value from the command line."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from training.adapt.errors import CannotAdapt

ADAPTER = "adapter"
"""Folder of the adapter alone, inside the result."""
DEFAULT_PASSES = 6.0
DEFAULT_RANK = 16
ADAPTER_RATE, FULL_RATE = 2e-3, 3e-4
"""Peak learning rates; an adapter starts without effect and tolerates larger steps."""


@dataclass(frozen=True)
class Settings:
    """Base, recordings and training options; the same settings continue the same run."""

    checkpoint: Path
    data: Path
    output: Path
    tests: tuple[Path, ...] = ()
    """Sets on which base and result are measured; no choice depends on them."""
    full: bool = False
    """True to train all weights instead of an adapter."""
    rank: int = DEFAULT_RANK
    passes: float = DEFAULT_PASSES
    """Mean number of times that each recording is used."""
    learning_rate: float | None = None
    """Peak learning rate; None for the default for an adapter or for all weights."""

    @property
    def peak_rate(self) -> float:
        """Return the peak learning rate."""
        return self.learning_rate or (FULL_RATE if self.full else ADAPTER_RATE)

    @property
    def work(self) -> Path:
        """Return the folder of features, state and log, beside the output."""
        return self.output.with_name(f"{self.output.name}.work")

    @property
    def candidate(self) -> Path:
        """Return the folder of the result before it is measured."""
        return self.work / "candidate"

    def claim(self) -> None:
        """Reserve the work folder for these settings.

        Raises:
            CannotAdapt: the output exists, or the work folder belongs to a run with other settings.
        """
        if self.output.exists():
            raise CannotAdapt(
                f"{self.output} exists: expected a new folder, since a served checkpoint must not "
                "change in place; choose another --output, or remove it"
            )
        record = self.work / "settings.json"
        ours = json.dumps(self._identity(), indent=2) + "\n"
        if record.exists() and record.read_text() != ours:
            raise CannotAdapt(
                f"{self.work} holds a run of other recordings, weights or options: remove it to "
                "start anew, or choose another --output"
            )
        self.work.mkdir(parents=True, exist_ok=True)
        record.write_text(ours)

    def _identity(self) -> dict[str, object]:
        return {
            "base_sha256": sha256_of(self.checkpoint / "model.safetensors"),
            "manifest_sha256": sha256_of(self.data / "manifest.tsv"),
            "rank": None if self.full else self.rank,
            "passes": self.passes,
            "learning_rate": self.peak_rate,
        }


def sha256_of(path: Path) -> str:
    """Return the hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
