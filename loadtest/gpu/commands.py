"""`python -m loadtest gpu-bundle`, `gpu-report`, `gpu-plot`, `gpu-page`, `gpu-tokens`: one GPU.

Server and load generator run on the same machine and share its cores, so a capacity is a lower
bound of what the GPU sustains with load from other machines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loadtest.options import RECORDINGS, Output, exiting_on


def gpu_bundle(
    python: Annotated[Path, typer.Option(help="Prefix of a Python 3.12 with a shared libpython.")],
    folder: Annotated[Path, typer.Option(help="Folder to write the pieces to.")] = Path(
        "build/gpu_bundle"
    ),
    part_mib: Annotated[int, typer.Option(min=1, help="Largest size of a piece.")] = 34,
) -> None:
    """Pack Triton and Python packages, in pieces, for a GPU machine without network."""
    from loadtest.gpu.bundle import PYTHON, has_library, write_bundle

    if not has_library(python):
        raise typer.BadParameter(f"{python} holds no lib/libpython{PYTHON}.so: --python PREFIX")
    write_bundle(python, folder, part_mib)


def gpu_tokens(
    reference: Annotated[
        Path, typer.Option(help="Exported models that passed the gate of the export.")
    ],
    repository: Annotated[Path, typer.Option(help="Exported models to compare with them.")],
    output: Output,
    speech: Annotated[Path, typer.Option(help="Folder with recordings.")] = RECORDINGS,
    allowed: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the tokens that may differ.")
    ] = 0.05,
) -> None:
    """Compare the tokens that two services output for recordings.

    Both transcribe live streams, or whole files if the models are for these.

    Exit codes: 0 few enough tokens differ, 1 too many differ.
    """
    from loadtest.gpu.tokens import compare_tokens

    comparison = compare_tokens(reference, repository, speech)
    comparison.write(output, allowed)
    print(f"{comparison.edits} of {comparison.reference_tokens} tokens differ")
    raise typer.Exit(0 if comparison.share <= allowed else 1)


def gpu_report(
    results: Annotated[Path, typer.Option(help="Folder for the JSON files and the HTML.")] = Path(
        "build/gpu_report"
    ),
    sizes: Annotated[
        str, typer.Option(help="Models: demo, 115m, 0.6b; most important first.")
    ] = "0.6b,demo,115m",
    chunks_ms: Annotated[
        str, typer.Option(help="Chunks, most important first; files: whole files.")
    ] = "560,1120,320,160,files",
    precision: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    instances: Annotated[
        int | None,
        typer.Option(min=1, help="Recognizer processes. Default: 8, or 5 with --own-engines."),
    ] = None,
    own_engines: Annotated[
        bool,
        typer.Option(
            "--own-engines",
            help="For live streams: give each of these processes its own engine, instead of "
            "one for all; results get other names.",
        ),
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Streams in one batch.")] = 512,
    processes: Annotated[
        int, typer.Option(min=0, help="Load generator processes; 0: three eighths of the cores.")
    ] = 0,
    hold_s: Annotated[
        float,
        typer.Option(min=1, help="Length of the hold that counts; half for all but one chunk."),
    ] = 60.0,
    short_hold_s: Annotated[
        float, typer.Option(min=1, help="Length of the other holds of a search.")
    ] = 8.0,
    long_hold_s: Annotated[
        float, typer.Option(min=1, help="Longest hold at 80 % of the capacity.")
    ] = 300.0,
    first_streams: Annotated[
        int | None,
        typer.Option(min=1, help="Streams with which searches begin. Default: 80 % of the target."),
    ] = None,
    max_streams: Annotated[
        int | None,
        typer.Option(
            min=1, help="Slots. Default: twice the target, if they fit into the GPU's memory."
        ),
    ] = None,
    speech: Annotated[
        Path | None,
        typer.Option(
            envvar="EARSHOT_SPEECH",
            help="Recordings whose tokens are compared. Default: those of the repository.",
        ),
    ] = None,
    budget_s: Annotated[
        float, typer.Option(min=1, help="Start nothing that will not end within this time.")
    ] = 520.0,
    next_budget_s: Annotated[
        float,
        typer.Option(min=0, help="Time of a later call, to which steps may be left."),
    ] = 0.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the schedule without running it.")
    ] = False,
) -> None:
    """Measure tokens, engine times and capacity on this machine's GPU, step by step.

    Exit codes: 0 all steps are done, 1 a step failed, 3 the budget is used up: call again.
    """
    from loadtest.gpu.machine import gpu_bytes
    from loadtest.gpu.plan import INSTANCES, OWN_INSTANCES, ReportOptions, mistake
    from loadtest.gpu.report import planned, run_report
    from loadtest.gpu.schedule import print_schedule
    from loadtest.result.machine import usable_cores

    options = ReportOptions(
        sizes=tuple(sizes.split(",")),
        chunks_ms=tuple(_chunk_ms(chunk) for chunk in chunks_ms.split(",")),
        precision=precision,
        instances=instances or (OWN_INSTANCES if own_engines else INSTANCES),
        own_engines=own_engines,
        max_batch=max_batch,
        processes=processes or max(1, usable_cores() * 3 // 8),
        hold_s=hold_s,
        short_hold_s=short_hold_s,
        long_hold_s=long_hold_s,
        first_streams=first_streams,
        max_streams=max_streams,
        speech=(speech or RECORDINGS).resolve(),
        gpu_bytes=gpu_bytes(),
        work=Path("build/gpu_work"),
        results=results,
    )
    if wrong := mistake(options):
        raise typer.BadParameter(wrong)
    if dry_run:
        calls_s = (budget_s, next_budget_s)
        print_schedule(planned(options, calls_s), calls_s)
        return
    raise typer.Exit(run_report(options, budget_s, next_budget_s).exit_code)


def gpu_plot(
    results: Annotated[
        list[Path], typer.Argument(help="Documents of `capacity` and `hold`, of one GPU.")
    ],
    output: Annotated[Path, typer.Option(help="Picture to write (.svg, .png).")],
) -> None:
    """Draw the streams that were held, beside published figures, and the latency of each level."""
    from loadtest.gpu.plot import plot_levels
    from loadtest.result.document import CapacityResult

    with exiting_on(OSError, ValueError):
        plot_levels([CapacityResult.from_json(path) for path in results], output)


def gpu_page(
    results: Annotated[
        list[Path], typer.Argument(help="Documents of `capacity` and `hold`, of one GPU.")
    ],
    price_per_hour: Annotated[
        float, typer.Option(min=0, help="Price of the GPU with its host, in any currency.")
    ],
    instances: Annotated[int, typer.Option(min=1, help="Recognizer processes of the server.")],
    output: Annotated[Path, typer.Option(help="Page to write (.html).")],
) -> None:
    """Write a page: the streams that a GPU held, their cost, what limited them, and the plot."""
    from loadtest.gpu.page import write_page

    with exiting_on(OSError, ValueError):
        write_page(results, price_per_hour, instances, output)


def _chunk_ms(text: str) -> int:
    from loadtest.gpu.plan import FILES, WHOLE

    if text == FILES:
        return WHOLE
    if not text.isdecimal() or not int(text):
        raise typer.BadParameter(f"--chunks-ms takes numbers and {FILES}, not '{text}'")
    return int(text)
