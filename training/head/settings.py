"""Options of a training of heads, one frozen value from the command line to the code."""

from dataclasses import dataclass
from pathlib import Path

from training.adapt.errors import CannotAdapt

DEFAULT_LOOKAHEAD = 6
"""Encoder frames of 80 ms: the lookahead of chunks of 560 ms, which are served by default."""
DEFAULT_QUERIES = 4
DEFAULT_PASSES = 60


@dataclass(frozen=True)
class Settings:
    """Checkpoint, recordings, and the questions that are asked of them."""

    checkpoint: Path
    data: Path
    output: Path
    labels: tuple[str, ...]
    """Columns of the manifest, one head each; a column with several values at once, several."""
    tests: tuple[Path, ...] = ()
    """Sets that the result is measured on; no choice depends on them."""
    lookahead: int = DEFAULT_LOOKAHEAD
    queries: int = DEFAULT_QUERIES
    """Places of an utterance that each head attends to."""
    passes: int = DEFAULT_PASSES
    """Times that each recording is used."""
    variants: int = 0
    """Copies of each recording to train on, which sound as from other microphones."""

    @property
    def work(self) -> Path:
        """Return the folder of cached frames and of a refused result, beside the output."""
        return self.output.with_name(f"{self.output.name}.work")

    @property
    def candidate(self) -> Path:
        """Return the folder of the result before it is measured."""
        return self.work / "candidate"

    def check(self) -> None:
        """Refuse to write over a result.

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
