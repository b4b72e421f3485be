"""``python -m loadtest gpu-report``: what one GPU carries, in steps that fit a short lease.

Each step is a command of its own that leaves one JSON file. A call does the steps whose file is not
there yet for as long as its budget lasts; the next call goes on. So a call that is killed keeps
what is done, and a machine that starts bare each time needs the results folder alone.

Server and load generator run on the same machine and share its cores: what comes out is a lower
bound of what the GPU carries when the load comes from elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from loadtest.machine import cpu_model, usable_cores
from loadtest.report import render
from loadtest.result import CapacityResult

TARGETS = {160: 1200, 320: 2800, 560: 4500, 1120: 12000}
"""Streams that are wanted of the 0.6B model, by chunk: where its search begins."""
GOODBYE_S = 20.0
"""For a server to unload its models."""
DEMO = "demo"
DEMO_CHECKPOINT = "checkpoints/demo"
_console = Console(stderr=True)


@dataclass(frozen=True)
class Plan:
    """What a report covers, and how its models are served."""

    sizes: list[str]
    chunks_ms: list[int]
    precision: str
    instances: int
    max_batch: int
    processes: int
    hold_s: float
    first_streams: int | None
    max_streams: int | None
    work: Path
    results: Path


@dataclass(frozen=True)
class Step:
    """Leaves ``<name>.json`` among the results."""

    name: str
    estimate_s: float
    """It is not begun with less time than this."""
    run: Callable[[Path, float], None]
    """Gets the file to write and the seconds that are left."""


class StepFailed(Exception):
    """A command of a step ended with an error, or ran out of time."""


@dataclass
class Outcome:
    """What a call has done."""

    done: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    left: list[str] = field(default_factory=list[str])


def gpu_report(
    results: Annotated[Path, typer.Option(help="Where the JSON files and the HTML go.")] = Path(
        "build/gpu_report"
    ),
    sizes: Annotated[str, typer.Option(help="Models: demo, 115m, 0.6b.")] = "demo,0.6b,115m",
    chunks_ms: Annotated[str, typer.Option(help="Chunks, most important first.")] = (
        "560,1120,320,160"
    ),
    precision: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    instances: Annotated[int, typer.Option(min=1, help="Processes that share the GPU.")] = 2,
    max_batch: Annotated[int, typer.Option(min=1, help="Streams in one batch.")] = 512,
    processes: Annotated[
        int, typer.Option(min=0, help="Load generator processes; 0: a third of the cores.")
    ] = 0,
    hold_s: Annotated[float, typer.Option(min=1, help="Length of the hold that counts.")] = 60.0,
    first_streams: Annotated[
        int | None, typer.Option(min=1, help="Where searches begin. Default: what is wanted.")
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(min=1, help="Slots. Default: twice what is wanted.")
    ] = None,
    budget_s: Annotated[
        float, typer.Option(min=1, help="Begin nothing that will not end within this time.")
    ] = 520.0,
) -> None:
    """Tokens against the CPU, engine times and capacity on this machine's GPU, step by step.

    Exit codes: 0 all done, 1 a step failed, 3 the budget is used up: call again.
    """
    plan = Plan(
        sizes=sizes.split(","),
        chunks_ms=[int(chunk) for chunk in chunks_ms.split(",")],
        precision=precision,
        instances=instances,
        max_batch=max_batch,
        processes=processes or max(1, usable_cores() // 3),
        hold_s=hold_s,
        first_streams=first_streams,
        max_streams=max_streams,
        work=Path("build/gpu_work"),
        results=results,
    )
    _check(plan)
    results.mkdir(parents=True, exist_ok=True)
    outcome = work_off(steps(plan), results, budget_s)
    write_pages(results)
    _tell(outcome)
    raise typer.Exit(1 if outcome.failed else 3 if outcome.left else 0)


def _check(plan: Plan) -> None:
    known = (DEMO, "115m", "0.6b")
    unknown = [size for size in plan.sizes if size not in known]
    if unknown:
        raise typer.BadParameter(f"no size {unknown[0]}; choose from {', '.join(known)}")
    wrong = [chunk for chunk in plan.chunks_ms if chunk not in TARGETS]
    if wrong:
        raise typer.BadParameter(f"no chunk of {wrong[0]} ms; choose from {list(TARGETS)}")


def work_off(todo: Sequence[Step], results: Path, budget_s: float) -> Outcome:
    """Do the steps that have no result yet, until the budget is used up."""
    began = time.monotonic()
    outcome = Outcome()
    for step in todo:
        path = results / f"{step.name}.json"
        left_s = budget_s - (time.monotonic() - began)
        if path.exists():
            outcome.done.append(step.name)
        elif left_s < step.estimate_s:
            outcome.left.append(step.name)
        else:
            _console.print(f"{step.name} ({left_s:.0f} s left)", highlight=False)
            _do(step, path, left_s, outcome)
    return outcome


def _do(step: Step, path: Path, left_s: float, outcome: Outcome) -> None:
    try:
        step.run(path, left_s)
        outcome.done.append(step.name)
    except StepFailed as error:
        outcome.failed.append(step.name)
        path.with_suffix(".failed.txt").write_text(f"{error}\n")
        _console.print(str(error), style="red", markup=False, highlight=False)


def steps(plan: Plan) -> list[Step]:
    """Everything that the report consists of, the most important first."""
    todo = [Step("machine", 10, lambda path, _: _write(path, machine()))]
    todo.append(Step("engine_tests", 60, _engine_tests))
    if DEMO in plan.sizes:
        todo.append(Step(f"tokens_{DEMO}_{plan.precision}", 60, _tokens(plan)))
    for chunk_ms in plan.chunks_ms:
        for size in plan.sizes:
            name = f"{size}_{chunk_ms}ms_{plan.precision}"
            todo.append(Step(f"engine_{name}", 45, _engine(plan, size, chunk_ms)))
            estimate_s = 60 + 2 * plan.hold_s
            todo.append(Step(f"capacity_{name}", estimate_s, _capacity(plan, size, chunk_ms)))
    return todo


def _engine_tests(path: Path, left_s: float) -> None:
    """The engine's own tests; on a GPU they run recorded graphs against the stages on the CPU."""
    arguments = ["-q", "-p", "no:cacheprovider", "tests/server/test_torch_engine.py"]
    said = _command("pytest", *arguments, deadline_s=time.monotonic() + left_s)
    _write(path, {"passed": said.splitlines()[-1]})


def _tokens(plan: Plan) -> Callable[[Path, float], None]:
    """The service on the GPU against a service on the CPU that the export gate has passed."""

    def run(path: Path, left_s: float) -> None:
        deadline_s = time.monotonic() + left_s
        reference = plan.work / "reference"
        arguments = ["--chunk-ms", str(plan.chunks_ms[0]), "--repository", str(reference)]
        _command("export", DEMO_CHECKPOINT, *arguments, deadline_s=deadline_s)
        repository = _exported(plan, DEMO, plan.chunks_ms[0], deadline_s)
        both = ["--reference", str(reference), "--repository", str(repository)]
        _command("loadtest.tokens", *both, "--output", str(path), deadline_s=deadline_s)

    return run


def _engine(plan: Plan, size: str, chunk_ms: int) -> Callable[[Path, float], None]:
    def run(path: Path, left_s: float) -> None:
        deadline_s = time.monotonic() + left_s
        repository = _exported(plan, size, chunk_ms, deadline_s)
        arguments = ["--repository", str(repository), "--output", str(path)]
        _command("server.engine_time", *arguments, deadline_s=deadline_s)

    return run


def _capacity(plan: Plan, size: str, chunk_ms: int) -> Callable[[Path, float], None]:
    def run(path: Path, left_s: float) -> None:
        deadline_s = time.monotonic() + left_s
        repository = _exported(plan, size, chunk_ms, deadline_s)
        said = _command(
            *("loadtest", "capacity", "--repository", str(repository), "--output", str(path)),
            *("--first-streams", str(plan.first_streams or TARGETS[chunk_ms] // 2)),
            *("--resolution", "0.15", "--hold-s", str(plan.hold_s)),
            *("--processes", str(plan.processes)),
            deadline_s=deadline_s,
            # A capacity of zero, or one that the generator limits, is a result.
            accepted=(0, 1, 3),
        )
        if not path.exists():
            raise StepFailed(f"the capacity run left no result: {_end(said)}")
        shutil.rmtree(repository)

    return run


def _exported(plan: Plan, size: str, chunk_ms: int, deadline_s: float) -> Path:
    """The repository of a model, exported once."""
    repository = plan.work / f"{size}_{chunk_ms}ms_{plan.precision}"
    if not repository.exists():
        streams = plan.max_streams or 2 * TARGETS[chunk_ms]
        name = DEMO_CHECKPOINT if size == DEMO else size
        how_many = "--encoder-instances" if size == DEMO else "--instances"
        _command(
            *("export" if size == DEMO else "export.random_model", name),
            *("--chunk-ms", str(chunk_ms), "--precision", plan.precision),
            *("--runtime", "torch", "--layout", "fused", "--repository", str(repository)),
            *("--max-streams", str(streams), "--max-batch-size", str(plan.max_batch)),
            *(how_many, str(plan.instances)),
            deadline_s=deadline_s,
        )
    return repository


def _command(
    module: str, *arguments: str, deadline_s: float, accepted: Sequence[int] = (0,)
) -> str:
    """Run one of our commands and return what it said; raises StepFailed with the end of that."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=max(1.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"{module} did not end in time: {_end(error.output)}") from None
        finally:
            _end_all(process)
    if process.returncode not in accepted:
        raise StepFailed(f"{' '.join(command)} ended with {process.returncode}: {_end(said)}")
    return said


def _end_all(leader: subprocess.Popen[str]) -> None:
    """End what a command leaves behind too: a server would keep the GPU from the next step."""
    give_up_s = time.monotonic() + GOODBYE_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        while time.monotonic() < give_up_s:
            leader.poll()
            os.killpg(leader.pid, 0)
            time.sleep(0.1)
        os.killpg(leader.pid, signal.SIGKILL)


def _end(output: str | bytes | None) -> str:
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    return text[-3000:].strip()


def machine() -> dict[str, Any]:
    """What everything ran on."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split("\n")
    except OSError:
        gpus = []
    versions: dict[str, str] = {}
    for package in ("torch", "numpy", "transformers", "nvidia-pytriton", "locust", "grpcio"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "gpus": [gpu for gpu in gpus if gpu],
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "python": platform.python_version(),
        "versions": versions,
        "conditions": "server and load generator share these cores",
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_pages(results: Path) -> None:
    """The page of `loadtest report` beside each capacity that there is."""
    for path in sorted(results.glob("capacity_*.json")):
        page = render(CapacityResult.from_json(path))
        path.with_suffix(".html").write_text(page, encoding="utf-8")


def _tell(outcome: Outcome) -> None:
    _console.print(f"{len(outcome.done)} steps done", highlight=False)
    if outcome.failed:
        _console.print(f"failed: {', '.join(outcome.failed)}", style="red", highlight=False)
    if outcome.left:
        _console.print(f"left: {', '.join(outcome.left)}; call again to go on", highlight=False)
