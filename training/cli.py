"""Define the command line: `python -m training` trains the demo model from recordings.

The commands `prepare`, `train`, `evaluate` and `plot` run single steps; `adapt` makes a custom
model from a checkpoint and a customer's recordings. All of them may be killed and restarted.
"""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from training.adapt.settings import (
    ADAPTER_RATE,
    DEFAULT_PASSES,
    DEFAULT_RANK,
    FULL_RATE,
    Settings,
)
from training.head.settings import DEFAULT_LOOKAHEAD, DEFAULT_QUERIES
from training.head.settings import DEFAULT_PASSES as HEAD_PASSES
from training.head.settings import Settings as HeadSettings

app = typer.Typer(add_completion=False, invoke_without_command=True, help=__doc__)

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "demo"
DEFAULT_WORK = Path(os.environ.get("WORK") or Path.home() / ".cache" / "earshot" / "demo-model")

GPU_FOLDER = Path("build/gpu_training")
GPU_WORK = GPU_FOLDER / "work"
GPU_RESULTS = GPU_FOLDER / "results"

Speech = Annotated[Path, typer.Option("--speech", help="Recordings, laid out as the README says.")]
Work = Annotated[Path, typer.Option("--work-dir", help="Features, state and log of the run.")]
Shards = Annotated[
    int, typer.Option("--synthetic-shards", help="Shards of 200 spoken sentences each.")
]
Jobs = Annotated[int, typer.Option("--jobs", help="Processes that compute features.")]
ExtraHours = Annotated[
    float, typer.Option("--extra-hours", help="Audio to train on after the schedule has ended.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore the committed checkpoint.")]


@app.callback()
def everything(
    context: typer.Context,
    speech: Speech = Path("../shared/speech"),
    work_dir: Work = DEFAULT_WORK,
    extra_hours: ExtraHours = 0.0,
    fresh: Fresh = False,
) -> None:
    """Without a command: prepare, train, plot, publish."""
    if context.invoked_subcommand is not None:
        return
    prepare(speech, work_dir)
    train(work_dir, extra_hours, fresh)
    plot(work_dir)
    publish(work_dir)


@app.command()
def prepare(
    speech: Speech = Path("../shared/speech"),
    work_dir: Work = DEFAULT_WORK,
    synthetic_shards: Shards = 150,
    jobs: Jobs = 2,
) -> None:
    """Synthesize speech, compute features, train the tokenizer."""
    from training.prepare import prepare as run
    from training.workplace import Workplace

    run(speech, Workplace(work_dir), synthetic_shards, jobs, committed())


@app.command()
def train(
    work_dir: Work = DEFAULT_WORK, extra_hours: ExtraHours = 0.0, fresh: Fresh = False
) -> None:
    """Train from the work folder's state, else the committed checkpoint, else new weights."""
    from training.schedule import PHASES, again
    from training.train import train as run
    from training.workplace import Workplace

    start = None if fresh else committed()
    run(Workplace(work_dir), PHASES + again(extra_hours), start)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument()] = CHECKPOINT,
    speech: Speech = Path("../shared/speech"),
    lookahead: Annotated[int, typer.Option(help="Encoder frames of 80 ms seen ahead.")] = 6,
    show: Annotated[int, typer.Option(help="Transcripts to print per test set.")] = 0,
) -> None:
    """Print the word error rate on every test set."""
    from training.evaluate import evaluate as run

    console = Console()
    table = Table("test set", "words", "WER %", title=f"{checkpoint}, R = {lookahead}")
    for score in run(checkpoint, speech / "test", lookahead):
        table.add_row(score.name, str(score.words), f"{100 * score.wer:.1f}")
        for reference, text in score.transcripts[:show]:
            console.print(f"[dim]{reference}[/dim]\n{text}\n")
    console.print(table)


@app.command()
def plot(work_dir: Work = DEFAULT_WORK) -> None:
    """Plot the newest run beside its checkpoint, and each step's gain beside the committed one.

    Losses are plotted only if there is a run.
    """
    from training.plot import plot_history, plot_log
    from training.workplace import Workplace

    place = Workplace(work_dir)
    if place.log.exists():
        plot_log(place.log, place.latest / "training.svg")
    plot_log(CHECKPOINT / "log_from_hour_144.jsonl", CHECKPOINT / "training_from_hour_144.svg")
    plot_history(CHECKPOINT / "history.json", CHECKPOINT / "history.svg")


@app.command()
def publish(work_dir: Work = DEFAULT_WORK) -> None:
    """Copy the newest checkpoint of the run over the committed one."""
    import shutil

    from training.workplace import Workplace

    shutil.copytree(Workplace(work_dir).latest, CHECKPOINT, dirs_exist_ok=True)


@app.command()
def average(
    checkpoint: Annotated[Path, typer.Argument(help="In transformers format.")],
    trained: Annotated[Path, typer.Argument(help="One that was trained from it.")],
    output: Annotated[Path, typer.Option(help="New folder for the average.")],
    share: Annotated[
        float, typer.Option(help="Share of the second one's weights.", min=0.0, max=1.0)
    ] = 0.25,
) -> None:
    """Average the weights of two checkpoints, often better than both after a short cycle."""
    from training.average import average as run

    run(checkpoint, trained, share, output)


@app.command()
def adapt(
    checkpoint: Annotated[Path, typer.Argument(help="The base, in transformers format.")],
    data: Annotated[Path, typer.Option(help="Folder with manifest.tsv and recordings.")],
    output: Annotated[Path, typer.Option(help="New folder for the custom model.")],
    test: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with a manifest to measure base and result on; repeatable."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights, no adapter.")] = False,
    rank: Annotated[int, typer.Option(help="Rank of the adapter.", min=1)] = DEFAULT_RANK,
    passes: Annotated[
        float, typer.Option(help="Mean number of times that each recording is used.", min=0.0)
    ] = DEFAULT_PASSES,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help=f"Peak learning rate; by default {ADAPTER_RATE:g}, with --full {FULL_RATE:g}."
        ),
    ] = None,
) -> None:
    """Adapt a checkpoint to recordings; publish it only if it has fewer word errors."""
    import signal
    import threading

    from training.adapt.errors import AdaptError
    from training.adapt.run import adapt as run

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    console = Console(stderr=True)
    tests = tuple(test or ())
    settings = Settings(checkpoint, data, output, tests, full, rank, passes, learning_rate)
    try:
        outcome = run(settings, console, stop)
    except AdaptError as error:
        console.print(str(error), soft_wrap=True, markup=False)
        raise typer.Exit(error.exit_code) from None
    table = Table("set", "words", "WER before", "after", title=str(output))
    for before, after in outcome.compared:
        table.add_row(before.name, str(before.words), f"{before.wer:.1%}", f"{after.wer:.1%}")
    console.print(table)


@app.command()
def merge(
    checkpoint: Annotated[Path, typer.Argument(help="The base that the adapter was trained on.")],
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    output: Annotated[Path, typer.Option(help="New folder for the merged checkpoint.")],
) -> None:
    """Merge an adapter of `adapt` into its base, as a checkpoint that `python -m export` takes."""
    from training.adapt.errors import AdaptError
    from training.adapt.merge import merge as run

    try:
        run(checkpoint, adapter, output)
    except AdaptError as error:
        Console(stderr=True).print(str(error), soft_wrap=True, markup=False)
        raise typer.Exit(error.exit_code) from None


@app.command()
def head(
    checkpoint: Annotated[Path, typer.Argument(help="The base, in transformers format.")],
    data: Annotated[Path, typer.Option(help="Folder with manifest.tsv and recordings.")],
    label: Annotated[
        list[str],
        typer.Option(
            help="Column of the manifest, one head each; repeatable. Values joined by | "
            "do not exclude each other."
        ),
    ],
    output: Annotated[Path, typer.Option(help="New folder for the heads.")],
    test: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with a manifest to measure the result on; repeatable."),
    ] = None,
    lookahead: Annotated[
        int, typer.Option(help="Frames of 80 ms that the served encoder sees ahead.")
    ] = DEFAULT_LOOKAHEAD,
    queries: Annotated[
        int, typer.Option(help="Places of an utterance that a head attends to.", min=1)
    ] = DEFAULT_QUERIES,
    passes: Annotated[
        int, typer.Option(help="Times that each recording is used.", min=1)
    ] = HEAD_PASSES,
    variants: Annotated[
        int,
        typer.Option(
            help="Copies of each recording, as from other microphones, to train on as well.", min=0
        ),
    ] = 0,
) -> None:
    """Train classifiers on a checkpoint's encoder; publish them if they beat the majority."""
    from training.adapt.errors import AdaptError
    from training.head.run import train_heads

    settings = HeadSettings(
        checkpoint,
        data,
        output,
        tuple(label),
        tuple(test or ()),
        lookahead,
        queries,
        passes,
        variants,
    )
    console = Console(stderr=True)
    try:
        outcome = train_heads(settings, console)
    except AdaptError as error:
        console.print(str(error), soft_wrap=True, markup=False)
        raise typer.Exit(error.exit_code) from None
    table = Table("set", "head", "one label for all", "head right", title=str(output))
    for name, scores in {"held out": outcome.held_out, **outcome.tests}.items():
        for score in scores:
            shares = (f"{score.majority_accuracy:.1%}", f"{score.accuracy:.1%}")
            table.add_row(name, score.question.name, *shares)
    console.print(table)


@app.command("head-text")
def head_text(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint whose transcripts to use.")],
    data: Annotated[Path, typer.Option(help="Folder with manifest.tsv and recordings.")],
    label: Annotated[list[str], typer.Option(help="Column of the manifest; repeatable.")],
    test: Annotated[
        list[Path] | None, typer.Option(help="Folder with a manifest to measure on; repeatable.")
    ] = None,
    lookahead: Annotated[
        int, typer.Option(help="Frames of 80 ms that the encoder sees ahead.")
    ] = DEFAULT_LOOKAHEAD,
) -> None:
    """Measure the accuracy of labelling by transcripts, to compare heads with."""
    from training.adapt.errors import AdaptError
    from training.head.text import score_texts

    console = Console(stderr=True)
    try:
        sets = score_texts(checkpoint, data, test or [], label, lookahead, console)
    except AdaptError as error:
        console.print(str(error), soft_wrap=True, markup=False)
        raise typer.Exit(error.exit_code) from None
    table = Table("set", "head", "keywords", "bag of words", title=f"transcripts of {checkpoint}")
    for scores in sets:
        for keywords, words in zip(scores.keywords, scores.words, strict=True):
            shares = (f"{keywords.accuracy:.1%}", f"{words.accuracy:.1%}")
            table.add_row(scores.name, keywords.question.name, *shares)
    Console().print(table)


@app.command("gpu-bundle")
def gpu_bundle(
    speech: Speech = Path("../shared/speech"),
    start: Annotated[Path, typer.Option(help="Checkpoint to start from.")] = CHECKPOINT,
    folder: Annotated[Path, typer.Option(help="Folder for the pieces.")] = GPU_FOLDER,
    piece_mib: Annotated[float, typer.Option(help="Largest size of a piece.")] = 36.0,
    jobs: Jobs = 2,
) -> None:
    """Pack everything that a GPU machine without network needs, in pieces to copy there."""
    from training.gpu.bundle import write_bundle

    for piece in write_bundle(speech, start, folder, piece_mib, jobs):
        print(f"{piece.stat().st_size / 2**20:7.1f} MiB  {piece}")


@app.command("gpu-prepare")
def gpu_prepare(
    folder: Annotated[Path, typer.Option(help="Folder of the copied pieces.")] = GPU_FOLDER,
    work_dir: Work = GPU_WORK,
    jobs: Jobs = 14,
    hours: Annotated[float, typer.Option(help="Hours of synthetic speech to make.")] = 40.0,
    minutes: Annotated[float, typer.Option(help="Minutes after which no shard is begun.")] = 10.0,
) -> None:
    """On the GPU machine, unpack the pieces, decode the recordings and synthesize speech."""
    from training.gpu.environment import hide_optional_packages

    hide_optional_packages()
    from training.gpu.bundle import NAME
    from training.gpu.pieces import unpack_pieces
    from training.gpu.prepare import add_site, prepare_sound

    carried = work_dir / "carried"
    if not (carried / "start").exists():
        unpack_pieces(folder, NAME, carried, "-J")
    add_site(carried / "site")
    prepare_sound(carried / "speech", work_dir / "sound", jobs, hours, minutes)


@app.command("gpu-train")
def gpu_train(
    work_dir: Work = GPU_WORK,
    results: Annotated[
        Path, typer.Option(help="Folder for the pieces of the weights.")
    ] = GPU_RESULTS,
    start: Annotated[
        Path | None, typer.Option(help="Start checkpoint; by default the bundled one.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Minutes for the updates and the end.")] = 4.0,
    batch_seconds: Annotated[float, typer.Option(help="Seconds of audio in a batch.")] = 1200.0,
    peak_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    capacity_hours: Annotated[
        float, typer.Option(help="Hours of audio that fit on the device.")
    ] = 200.0,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    kernel: Annotated[bool, typer.Option(help="Try our own kernel for the lattice.")] = True,
    smoke: Annotated[bool, typer.Option("--smoke", help="Time the parts of a step.")] = False,
    smoke_steps: Annotated[int, typer.Option(help="Whole steps per batch size.")] = 20,
) -> None:
    """Train on the GPU for a given time, from one checkpoint to the pieces of another."""
    from training.gpu.environment import hide_optional_packages

    hide_optional_packages()
    import torch

    from training.gpu.smoke import smoke as run_smoke
    from training.gpu.train import Settings, train_on_gpu

    carried = work_dir / "carried" / "start"
    chosen = start or (carried if carried.exists() else CHECKPOINT)
    settings = Settings(
        sound=work_dir / "sound",
        start=chosen,
        run=work_dir / ("smoke" if smoke else "run"),
        results=results,
        minutes=minutes,
        batch_seconds=batch_seconds,
        peak_rate=peak_rate,
        capacity_hours=capacity_hours,
        device=torch.device(device),
        kernel=kernel,
    )
    if smoke:
        run_smoke(settings, (batch_seconds / 2, batch_seconds, 2 * batch_seconds), smoke_steps)
    else:
        train_on_gpu(settings)


@app.command("gpu-unpack")
def gpu_unpack(
    folder: Annotated[Path, typer.Argument(help="Folder with the pieces that came back.")],
    target: Annotated[Path, typer.Option(help="Folder for the checkpoint.")] = GPU_FOLDER
    / "trained",
    speech: Speech = Path("../shared/speech"),
    publish_it: Annotated[
        bool, typer.Option("--publish", help="Copy it over the committed one.")
    ] = False,
) -> None:
    """Join the pieces of trained weights, evaluate them and, if requested, publish them."""
    import shutil

    from training.gpu.pieces import unpack_pieces
    from training.gpu.train import WEIGHTS_NAME

    unpack_pieces(folder, WEIGHTS_NAME, target)
    evaluate(target, speech)
    if publish_it:
        shutil.copytree(
            target, CHECKPOINT, ignore=shutil.ignore_patterns("*.jsonl"), dirs_exist_ok=True
        )


def committed() -> Path | None:
    """Return the committed checkpoint, or None if there is none."""
    return CHECKPOINT if (CHECKPOINT / "model.safetensors").exists() else None
