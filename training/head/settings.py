"""The options for training heads, passed as one frozen value from the command line."""

from dataclasses import dataclass
from pathlib import Path

from training.adapt.errors import CannotAdapt

DEFAULT_LOOKAHEAD = 6
"""Lookahead in encoder frames of 80 ms: that of chunks of 560 ms, the default of the service."""
DEFAULT_QUERIES = 4
DEFAULT_PASSES = 60


@dataclass(frozen=True)
class Settings:
    """Checkpoint, recordings, and the labels to learn."""

    checkpoint: Path
    data: Path
    output: Path
    labels: tuple[str, ...]
    """Columns of the manifest, with one head each, or several for a column with combined values."""
    tests: tuple[Path, ...] = ()
    """Sets on which the result is measured; no choice depends on them."""
    lookahead: int = DEFAULT_LOOKAHEAD
    queries: int = DEFAULT_QUERIES
    """Number of queries of each head, that is, places of an utterance to attend to."""
    passes: int = DEFAULT_PASSES
    """Number of times that each recording is used."""
    variants: int = 0
    """Copies of each recording to train on, which sound as if from other microphones."""

    @property
    def work(self) -> Path:
        """Return the folder of cached frames and of a rejected result, beside the output."""
        return self.output.with_name(f"{self.output.name}.work")

    @property
    def candidate(self) -> Path:
        """Return the folder of the result before it is measured."""
        return self.work / "candidate"

    def check(self) -> None:
        """Refuse to overwrite a result.

        Raises:
            CannotAdapt: the output exists, or a column or the name of a test set is given twice.
        """
        if self.output.exists():
            raise CannotAdapt(
                f"{self.output} exists: expected a new folder, since a served head must not change "
                "in place; choose another --output, or remove it"
            )
        if len(set(self.labels)) < len(self.labels):
            raise CannotAdapt(f"expected each --label once, got {', '.join(self.labels)}")
        tests = [folder.name for folder in self.tests]
        if len(set(tests)) < len(tests):
            raise CannotAdapt(
                f"expected --test folders with different last names, got {', '.join(tests)}: the "
                "figures are by that name"
            )
