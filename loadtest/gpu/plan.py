"""Plan a GPU report: its options, its models, and the values that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.plan.memory import Footprint, streams_that_fit

DEMO = "demo"
FILES = "files"
"""Stands for whole files in the list of chunks and in the names of steps and folders."""
WHOLE = 0
"""Chunk length of a model for whole files."""
INSTANCES, OWN_INSTANCES = 8, 5
"""Processes of a recognizer of live streams if they share an engine, and if each has its own. Five
engines held 3,900 streams of 560 ms."""
OWN_SUFFIX = "_own"
"""Suffix of the names of models whose processes each have their own engine."""
FILES_INSTANCES = 2
"""Processes of a recognizer of whole files: one prepares a batch while the other has the GPU."""
SIZES = (DEMO, "115m", "0.6b")
TARGETS = {160: 1200, 320: 2800, 560: 4500, 1120: 7500}
"""Target number of streams of the 0.6B model, by chunk length."""
FIRST_SHARE = 0.8
"""Share of the target with which searches begin: five engines held 87 % of it at 560 ms."""
STATE_BYTES = {DEMO: 0.5e6, "115m": 2.7e6, "0.6b": 7.5e6}
"""Upper bound of the state of one stream in 16 bits."""
PROCESS_BYTES = 2e9
"""Memory of an engine's process: weights of the 0.6B model in 16 bits, and the CUDA context."""
RANDOM_ALLOWED_CHANGE = 0.8
"""Share of the tokens of a random model's stream that may differ from the reference. Random weights
amplify rounding, which depends on the batch: in half precision, more than a quarter of the tokens
differed in 1 stream of 20, and a single stream that differs by more than allowed makes a level
fail. All levels that a GPU has held used 0.8. With the bundled recordings, six of ten streams that
get another stream's text still differ by more. Fewer recordings would not suffice, as scripts would
share too much of their audio."""


@dataclass(frozen=True)
class Model:
    """A model that a step serves."""

    size: str
    chunk_ms: int
    """`WHOLE` for whole files."""
    precision: str
    own_engines: bool = False
    """True if each of its processes has its own engine, instead of one for all."""

    @property
    def name(self) -> str:
        """Return the part of the names of steps and folders that stands for this model."""
        what = FILES if self.chunk_ms == WHOLE else f"{self.chunk_ms}ms"
        return f"{self.size}_{what}_{self.precision}" + OWN_SUFFIX * self.own_engines

    @property
    def allowed_change(self) -> float | None:
        """Return the share of a stream's tokens that may differ; `None` for the default."""
        return None if self.size == DEMO else RANDOM_ALLOWED_CHANGE


@dataclass(frozen=True)
class ReportOptions:
    """Options of a GPU report, from the command to every step."""

    sizes: tuple[str, ...]
    """Sizes of the models, most important first."""
    chunks_ms: tuple[int, ...]
    """Chunk lengths, most important first; `WHOLE` for whole files."""
    precision: str
    instances: int
    """Recognizer processes."""
    own_engines: bool
    """For live streams: True if each process has its own engine, instead of one for all."""
    max_batch: int
    processes: int
    """Load generator processes."""
    hold_s: float
    short_hold_s: float
    long_hold_s: float
    """Length of the hold at a share of the capacity, if time allows it."""
    first_streams: int | None
    """Streams with which searches begin; `None`: `FIRST_SHARE` of the target."""
    max_streams: int | None
    """Slots; `None`: twice the target, if they fit into the GPU's memory."""
    speech: Path
    """Recordings whose tokens are compared with those of the CPU."""
    gpu_bytes: float
    """Memory of the GPU; 0 without one."""
    work: Path
    """Folder with the exported models."""
    results: Path

    @property
    def live_chunks_ms(self) -> tuple[int, ...]:
        """Return the chunks of live streams."""
        return tuple(chunk for chunk in self.chunks_ms if chunk != WHOLE)

    def model(self, size: str, chunk_ms: int, precision: str | None = None) -> Model:
        """Return a model as these options serve it."""
        own_engines = self.own_engines and chunk_ms != WHOLE
        return Model(size, chunk_ms, precision or self.precision, own_engines)

    def hold_of(self, chunk_ms: int) -> float:
        """Return the length of the final hold; it is half for all but the first chunk length."""
        return self.hold_s if chunk_ms in self.live_chunks_ms[:1] else self.hold_s / 2


def mistake(options: ReportOptions) -> str | None:
    """Return the error in the sizes and chunks of `options`, if any."""
    unknown = [size for size in options.sizes if size not in SIZES]
    if unknown:
        return f"no size {unknown[0]}; choose from {', '.join(SIZES)}"
    wrong = [chunk for chunk in options.live_chunks_ms if chunk not in TARGETS]
    if wrong:
        return f"no chunk of {wrong[0]} ms; choose from {list(TARGETS)} and {FILES}"
    return None


def slots(options: ReportOptions, model: Model) -> int:
    """Return the slots of an exported model: twice its target, if they fit into GPU memory."""
    if options.max_streams:
        return options.max_streams
    wanted = 2 * TARGETS[model.chunk_ms]
    if not options.gpu_bytes:
        return wanted
    wide = 2 if model.precision == "fp32" else 1
    state_bytes, process_bytes = wide * STATE_BYTES[model.size], wide * PROCESS_BYTES
    engines = options.instances if model.own_engines else 1
    footprint = Footprint(state_bytes, process_bytes, options.max_batch, engines)
    fit = streams_that_fit(footprint, options.gpu_bytes)
    return max(1, min(wanted, fit))
