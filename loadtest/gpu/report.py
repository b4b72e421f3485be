"""``python -m loadtest gpu-report``: what one GPU carries, in steps that fit a short lease.

Each step is a command of its own that leaves one JSON file. A call does the steps whose file is not
there yet for as long as its budget lasts; the next call goes on. So a call that is killed keeps
what is done, and a machine that starts bare each time needs the results folder alone. The most
important steps come first, those that have failed before come last.

Server and load generator run on the same machine and share its cores: what comes out is a lower
bound of what the GPU carries when the load comes from elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import typer
from rich.console import Console

from loadtest.gpu.summary import write_summary
from loadtest.options import RECORDINGS
from loadtest.report.page import render
from loadtest.result.document import CapacityResult
from loadtest.result.machine import cpu_model, usable_cores

TARGETS = {160: 1200, 320: 2800, 560: 4500, 1120: 7500}
"""Streams that are wanted of the 0.6B model, by chunk: where its search begins."""
GOODBYE_S = 20.0
"""For a server to unload its models."""
DEMO = "demo"
DEMO_CHECKPOINT = "checkpoints/demo"
STATE_BYTES = {DEMO: 0.5e6, "115m": 2.7e6, "0.6b": 7.5e6}
"""Of one stream in 16 bits, generously."""
POOL_SHARE = 0.55
"""Of the GPU's memory; the rest is for weights, recorded graphs and the batch that runs."""
GROWTH, RESOLUTION = 1.4, 0.1
"""Of the capacity search. Streams far beyond the capacity take long to end, which costs a lease."""
HOLD_SHARE = 0.8
"""Of the streams that were carried, for the long hold."""
_console = Console(stderr=True)
_one_at_a_time: Callable[[Path], Lock] = cache(lambda repository: Lock())
"""Who exports into a folder; others wait for it."""
_failed_exports: dict[Path, StepFailed] = {}
"""Of this call; the next one tries again."""


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
    short_hold_s: float
    long_hold_s: float
    first_streams: int | None
    max_streams: int | None
    speech: Path
    gpu_bytes: float
    """0 without a GPU."""
    work: Path
    results: Path

    @property
    def first(self) -> Model:
        """The model that matters most."""
        return Model(self.sizes[0], self.chunks_ms[0], self.precision)


@dataclass(frozen=True)
class Model:
    """What a step serves."""

    size: str
    chunk_ms: int
    precision: str

    @property
    def name(self) -> str:
        """As it stands in the names of steps and folders."""
        return f"{self.size}_{self.chunk_ms}ms_{self.precision}"


@dataclass(frozen=True)
class Step:
    """Leaves ``<name>.json`` among the results."""

    name: str
    estimate_s: float
    """It is not begun with less time than this."""
    run: Callable[[Path, float], None]
    """Gets the file to write and the seconds that are left."""
    model: Model | None = None
    timed: bool = True
    """It needs the machine for itself; others run beside the exports."""


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
    sizes: Annotated[
        str, typer.Option(help="Models: demo, 115m, 0.6b; most important first.")
    ] = "0.6b,demo,115m",
    chunks_ms: Annotated[str, typer.Option(help="Chunks, most important first.")] = (
        "560,1120,320,160"
    ),
    precision: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    instances: Annotated[int, typer.Option(min=1, help="Processes that share the GPU.")] = 2,
    max_batch: Annotated[int, typer.Option(min=1, help="Streams in one batch.")] = 512,
    processes: Annotated[
        int, typer.Option(min=0, help="Load generator processes; 0: half of the cores.")
    ] = 0,
    hold_s: Annotated[float, typer.Option(min=1, help="Length of the hold that counts.")] = 60.0,
    short_hold_s: Annotated[
        float, typer.Option(min=1, help="Length of the holds on the way there.")
    ] = 8.0,
    long_hold_s: Annotated[
        float, typer.Option(min=1, help="Length of the hold at 80 % of what was carried.")
    ] = 300.0,
    first_streams: Annotated[
        int | None, typer.Option(min=1, help="Where searches begin. Default: what is wanted.")
    ] = None,
    max_streams: Annotated[
        int | None,
        typer.Option(min=1, help="Slots. Default: twice what is wanted, if the GPU holds them."),
    ] = None,
    speech: Annotated[
        Path | None,
        typer.Option(
            envvar="EARSHOT_SPEECH",
            help="Recordings whose tokens are compared. Default: those of the repository.",
        ),
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
        processes=processes or max(1, usable_cores() // 2),
        hold_s=hold_s,
        short_hold_s=short_hold_s,
        long_hold_s=long_hold_s,
        first_streams=first_streams,
        max_streams=max_streams,
        speech=(speech or RECORDINGS).resolve(),
        gpu_bytes=_gpu_bytes(),
        work=Path("build/gpu_work"),
        results=results,
    )
    _check(plan)
    results.mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + budget_s
    todo = in_order(steps(plan), results)
    beside = _prepare(plan, todo, deadline_s)
    todo = [step for step in todo if step.name not in beside.failed]
    outcome = work_off(todo, results, deadline_s - time.monotonic())
    outcome.failed += beside.failed
    write_pages(results)
    write_summary(results, instances)
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
        path.with_suffix(".failed.txt").unlink(missing_ok=True)
        outcome.done.append(step.name)
    except StepFailed as error:
        outcome.failed.append(step.name)
        path.with_suffix(".failed.txt").write_text(f"{error}\n")
        _console.print(str(error), style="red", markup=False, highlight=False)


def in_order(todo: Sequence[Step], results: Path) -> list[Step]:
    """Those that have failed in an earlier call come last: they may take their time to fail."""
    return sorted(todo, key=lambda step: (results / f"{step.name}.failed.txt").exists())


def steps(plan: Plan) -> list[Step]:
    """Everything that the report consists of, the most important first."""
    todo = [Step("machine", 10, lambda path, _: _write(path, machine()))]
    todo.append(Step("engine_tests", 60, _engine_tests, timed=False))
    if DEMO in plan.sizes:
        todo.append(_tokens_step(plan, plan.precision))
    first, *others = plan.sizes
    for chunk_ms in plan.chunks_ms:
        todo += _measured(plan, Model(first, chunk_ms, plan.precision))
    name = f"hold_{plan.first.name}"
    todo.append(Step(name, plan.long_hold_s + 60, _long_hold(plan, plan.first), plan.first))
    for chunk_ms in plan.chunks_ms:
        for size in others:
            todo += _measured(plan, Model(size, chunk_ms, plan.precision))
    if DEMO in plan.sizes and plan.precision != "fp32":
        todo.append(_tokens_step(plan, "fp32"))
    return todo


def _tokens_step(plan: Plan, precision: str) -> Step:
    model = Model(DEMO, plan.chunks_ms[0], precision)
    return Step(f"tokens_{DEMO}_{precision}", 60, _tokens(plan, model), model, timed=False)


def _measured(plan: Plan, model: Model) -> list[Step]:
    estimate_s = 60 + plan.hold_s
    return [
        Step(f"engine_{model.name}", 45, _engine(plan, model), model),
        Step(f"capacity_{model.name}", estimate_s, _capacity(plan, model), model),
    ]


def _engine_tests(path: Path, left_s: float) -> None:
    """The engine's own tests; on a GPU they run recorded graphs against the stages on the CPU."""
    arguments = ["-q", "-p", "no:cacheprovider", "tests/server/test_torch_engine.py"]
    said = _command("pytest", *arguments, deadline_s=time.monotonic() + left_s)
    _write(path, {"passed": said.splitlines()[-1]})


def _tokens(plan: Plan, model: Model) -> Callable[[Path, float], None]:
    """The service on the GPU against a service on the CPU that the export gate has passed."""

    def run(path: Path, left_s: float) -> None:
        deadline_s = time.monotonic() + left_s
        reference = _reference(plan, deadline_s)
        repository = _exported(plan, model, deadline_s)
        both = ["--reference", str(reference), "--repository", str(repository)]
        speech = ["--speech", str(plan.speech)]
        _command(
            "loadtest.gpu.tokens", *both, *speech, "--output", str(path), deadline_s=deadline_s
        )

    return run


def _reference(plan: Plan, deadline_s: float) -> Path:
    """The demo model in float32 for the CPU, exported once."""
    reference = plan.work / "reference"
    arguments = ["--chunk-ms", str(plan.chunks_ms[0]), "--repository", str(reference)]
    _once(reference, lambda: _command("export", DEMO_CHECKPOINT, *arguments, deadline_s=deadline_s))
    return reference


def _engine(plan: Plan, model: Model) -> Callable[[Path, float], None]:
    def run(path: Path, left_s: float) -> None:
        deadline_s = time.monotonic() + left_s
        repository = _exported(plan, model, deadline_s)
        arguments = ["--repository", str(repository), "--output", str(path)]
        _command("server.engine_time", *arguments, deadline_s=deadline_s)

    return run


def _capacity(plan: Plan, model: Model) -> Callable[[Path, float], None]:
    def run(path: Path, left_s: float) -> None:
        first = plan.first_streams or TARGETS[model.chunk_ms] * 2 // 3
        search = ["capacity", "--first-streams", str(first), "--growth", str(GROWTH)]
        search += ["--resolution", str(RESOLUTION), "--short-hold-s", str(plan.short_hold_s)]
        _load(plan, model, search, plan.hold_s, path, left_s)

    return run


def _long_hold(plan: Plan, model: Model) -> Callable[[Path, float], None]:
    """Whether 80 % of what was carried is carried for long."""

    def run(path: Path, left_s: float) -> None:
        found = plan.results / f"capacity_{model.name}.json"
        carried = CapacityResult.from_json(found).streams if found.exists() else 0
        if not carried:
            raise StepFailed(f"{found.name} has no count to hold {HOLD_SHARE:.0%} of")
        hold = ["hold", "--streams", str(int(HOLD_SHARE * carried))]
        _load(plan, model, hold, plan.long_hold_s, path, left_s)

    return run


def _load(
    plan: Plan, model: Model, command: list[str], hold_s: float, path: Path, left_s: float
) -> None:
    """A load test; not carried, or limited by the generator, is a result too."""
    deadline_s = time.monotonic() + left_s
    repository = _exported(plan, model, deadline_s)
    said = _command(
        *("loadtest", *command, "--repository", str(repository), "--output", str(path)),
        *("--hold-s", str(hold_s), "--processes", str(plan.processes)),
        deadline_s=deadline_s,
        accepted=(0, 1, 3),
    )
    if not path.exists():
        raise StepFailed(f"the load test left no result: {_end(said)}")


def _prepare(plan: Plan, todo: Sequence[Step], deadline_s: float) -> Outcome:
    """Export the models that are needed, side by side, and run the steps that time nothing.

    An export is mostly one thread. A failure is told by the steps that need the model.
    """
    left = [step for step in todo if not (plan.results / f"{step.name}.json").exists()]
    models = dict.fromkeys(step.model for step in left if step.model)
    _console.print(f"{len(models)} models to serve", highlight=False)
    outcome = Outcome()
    with ThreadPoolExecutor(max(2, usable_cores() // 2)) as pool:
        for step in left:
            if not step.timed:
                path = plan.results / f"{step.name}.json"
                pool.submit(_do, step, path, deadline_s - time.monotonic(), outcome)
        for model in models:
            pool.submit(_exported, plan, model, deadline_s)
    return outcome


def _repository(plan: Plan, model: Model) -> Path:
    return plan.work / model.name


def _exported(plan: Plan, model: Model, deadline_s: float) -> Path:
    """The repository of a model, exported once."""
    repository = _repository(plan, model)
    _once(repository, lambda: _export(plan, model, repository, deadline_s))
    return repository


def _once(repository: Path, export: Callable[[], object]) -> None:
    """Export what is missing; a step that comes later fails as the first one did, at once."""
    with _one_at_a_time(repository):
        if repository in _failed_exports:
            raise _failed_exports[repository]
        if not repository.exists():
            try:
                export()
            except StepFailed as error:
                _failed_exports[repository] = error
                raise


def _export(plan: Plan, model: Model, repository: Path, deadline_s: float) -> None:
    demo = model.size == DEMO
    _command(
        *("export" if demo else "export.random_model", DEMO_CHECKPOINT if demo else model.size),
        *("--chunk-ms", str(model.chunk_ms), "--precision", model.precision),
        *("--runtime", "torch", "--layout", "fused", "--repository", str(repository)),
        *("--max-streams", str(slots(plan, model)), "--max-batch-size", str(plan.max_batch)),
        *("--encoder-instances" if demo else "--instances", str(plan.instances)),
        deadline_s=deadline_s,
        env=os.environ | {"OMP_NUM_THREADS": str(max(1, usable_cores() // 4))},
    )


def slots(plan: Plan, model: Model) -> int:
    """Streams that a model is exported for: room for a search, but no more than the GPU holds."""
    if plan.max_streams:
        return plan.max_streams
    wanted = 2 * TARGETS[model.chunk_ms]
    state_bytes = STATE_BYTES[model.size] * (2 if model.precision == "fp32" else 1)
    fit = int(POOL_SHARE * plan.gpu_bytes / state_bytes)
    return min(wanted, fit) if plan.gpu_bytes else wanted


def _command(
    module: str,
    *arguments: str,
    deadline_s: float,
    accepted: Sequence[int] = (0,),
    env: Mapping[str, str] | None = None,
) -> str:
    """Run one of our commands and return what it said; raises StepFailed with the end of that."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=env,
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


def _gpu_bytes() -> float:
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=0"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0.0
    return float(said) * 2**20


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
    """The page of `loadtest report` beside each capacity and hold that there is."""
    for path in sorted([*results.glob("capacity_*.json"), *results.glob("hold_*.json")]):
        page = render(CapacityResult.from_json(path))
        path.with_suffix(".html").write_text(page, encoding="utf-8")


def _tell(outcome: Outcome) -> None:
    _console.print(f"{len(outcome.done)} steps done", highlight=False)
    if outcome.failed:
        _console.print(f"failed: {', '.join(outcome.failed)}", style="red", highlight=False)
    if outcome.left:
        _console.print(f"left: {', '.join(outcome.left)}; call again to go on", highlight=False)
