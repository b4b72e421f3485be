"""Command line of the demo model: `python -m training` makes a checkpoint from recordings.

The commands `prepare`, `train`, `evaluate` and `plot` run single steps. All of them may be killed
and called again.
"""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(add_completion=False, invoke_without_command=True, help=__doc__)

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "demo"
DEFAULT_WORK = Path(os.environ.get("WORK") or Path.home() / ".cache" / "earshot" / "demo-model")

Speech = Annotated[Path, typer.Option("--speech", help="Recordings, laid out as the README says.")]
Work = Annotated[Path, typer.Option("--work-dir", help="Features, state and log of the run.")]
Shards = Annotated[int, typer.Option("--synthetic-shards", help="Of 200 spoken sentences each.")]
Jobs = Annotated[int, typer.Option("--jobs", help="Processes that make features.")]
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
    """Draw losses and held-out word error rates beside the newest checkpoint of the run."""
    from training.plot import plot_log
    from training.workplace import Workplace

    place = Workplace(work_dir)
    plot_log(place.log, place.latest / "training.svg")


@app.command()
def publish(work_dir: Work = DEFAULT_WORK) -> None:
    """Copy the newest checkpoint of the run over the committed one."""
    import shutil

    from training.workplace import Workplace

    shutil.copytree(Workplace(work_dir).latest, CHECKPOINT, dirs_exist_ok=True)


def committed() -> Path | None:
    """Return the committed checkpoint, or None if there is none."""
    return CHECKPOINT if (CHECKPOINT / "model.safetensors").exists() else None


if __name__ == "__main__":
    app()
