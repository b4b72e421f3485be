"""Start Triton, wait until it is ready, and stop it: the library behind `python -m server`."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonclient.utils import InferenceServerException

from .access import OPEN, Access
from .admission import chosen_share
from .backend_directory import make_backend_directory
from .command import triton_command, triton_environment
from .errors import BadRepository, TritonDied
from .heartbeats import Idleness
from .local_client import open_client
from .locate import TritonInstall, find_triton
from .log import cuda_pool_overflow, failure_report, loaded_models, opening_lines
from .metrics_page import LauncherMetrics, metrics_page
from .ports import LOOPBACK, Endpoints, choose_endpoints, reserving
from .process import TritonProcess
from .repository import Ensemble, Repository, read_repository
from .tensorrt import Budget, require_state_pool
from .tracing import Tracing
from .warm_up import warm_up, warm_up_files
from .workspace import BACKENDS, HEARTBEATS, record_launcher, shm_prefix, workspace

_POLL_S = 0.1
DRAIN_S = 60.0
"""Seconds that open streams may continue after a request to stop."""
EXIT_S = 15.0
"""tritonserver exits about 4 s after its last stream, but once in thousands of times it does not:
after this long without work it is killed."""

# Called with the number of loaded models, that of all models, and a line for each completed phase
# of opening an engine.
Progress = Callable[[int, int, list[str]], None]


@dataclass(frozen=True)
class Triton:
    """A running server."""

    endpoints: Endpoints
    process: TritonProcess
    ensembles: tuple[Ensemble, ...]
    heartbeats: Path
    metrics: LauncherMetrics
    budget: Budget | None = None
    access: Access = OPEN
    canary_secret: str = ""
    """The secret by which the stages recognize the launcher's test chunks."""
    chunk_share: float | None = None
    """New streams are refused if chunks would then take longer than this share of their length;
    None: only the slots are a limit."""

    @property
    def grpc_url(self) -> str:
        """Return `host:port` for tritonclient."""
        return self.endpoints.grpc_url

    @property
    def metrics_url(self) -> str:
        """Return the URL that Prometheus scrapes."""
        return f"http://{self.endpoints.host}:{self.endpoints.metrics_port}/metrics"

    @property
    def log_path(self) -> Path:
        """Return the path of the log of tritonserver and the backends."""
        return self.process.log_path

    def drain(self, deadline_s: float) -> bool:
        """Refuse new streams, and serve the open ones for at most `deadline_s` seconds.

        Returns:
            True if all streams, and then the server, have ended.
        """
        self.metrics.draining.set(1)
        self.process.terminate()
        idleness = Idleness(self.heartbeats)
        deadline_s += time.monotonic()
        while self.process.wait(_POLL_S) is None and time.monotonic() < deadline_s:
            if self.budget is None and idleness.look() > EXIT_S:
                self.process.kill()
                return True
        return self.process.exit_code == 0

    def check_state_pool(self) -> None:
        """Raise TritonDied if states were moved to host memory; without TensorRT, do nothing."""
        if self.budget is None:
            return
        overflow = cuda_pool_overflow(self.log_path)
        if overflow is not None:
            raise TritonDied(
                f"the states of {self.budget.streams} streams overflow the CUDA memory pool of "
                f"{self.budget.pool} bytes, and Triton moves them to host memory; export with "
                f"fewer --max-streams. Triton's log: {overflow}"
            )


@contextmanager
def running(
    repository: Path,
    *,
    host: str = "127.0.0.1",
    grpc_port: int | None = None,
    metrics_port: int | None = None,
    http_port: int | None = None,
    log_path: Path | None = None,
    model_control: bool = False,
    drain_s: float = DRAIN_S,
    chunk_share: float | None = None,
    access: Access = OPEN,
    tracing: Tracing | None = None,
    ready_timeout_s: float = 300.0,
    progress: Progress = lambda loaded, models, phases: None,
) -> Generator[Triton]:
    """Serve `repository` for the length of the block.

    A free port is chosen for each port that is None, but HTTP stays off without `http_port`.
    Without `log_path` the log is in a temporary folder, which is kept only if Triton dies. The
    server never outlives the thread that called this function.

    Args:
        model_control: lets clients load and unload models.
        drain_s: the longest drain; the server of a launcher that was killed also ends after this
            time.
        chunk_share: see `Triton.chunk_share`; 0 for no such limit, None for the default. `watch`
            applies the limit.
        access: the credentials that callers must present; none by default.
        tracing: sends traces to a collector; by default there are none.

    Raises:
        UserError: the server cannot be started as requested; nothing has been started.
        TritonDied: the server ended early, or was not ready after `ready_timeout_s`.
    """
    access.check(host, model_control=model_control, http=http_port is not None)
    install = find_triton()
    models = read_repository(repository)
    share = chosen_share(chunk_share, models)
    if model_control and models.budget is not None:
        raise BadRepository(
            f"{repository} holds TensorRT engines, whose state pool is as large as the models at "
            "the start need it: serve them without --model-control, and restart for new ones"
        )
    endpoints = choose_endpoints(
        host, grpc_port=grpc_port, metrics_port=metrics_port, http_port=http_port
    )
    metrics = LauncherMetrics(models)
    canary_secret = secrets.token_hex(16)
    with (
        reserving(endpoints),
        workspace() as folder,
        metrics_page(endpoints, folder / HEARTBEATS, metrics),
        _ready(
            lambda: _start(
                install,
                models,
                endpoints,
                folder,
                log_path,
                model_control=model_control,
                drain_s=drain_s,
                access=access,
                tracing=tracing,
                canary_secret=canary_secret,
            ),
            lambda process: _wait_until_ready(
                process, endpoints, access, len(models.models), ready_timeout_s, progress
            ),
        ) as process,
        _raising_triton_died(process),
    ):
        process.hide_shared_memory()
        triton = Triton(
            endpoints,
            process,
            models.ensembles,
            folder / HEARTBEATS,
            metrics,
            models.budget,
            access,
            canary_secret,
            share,
        )
        metrics.show_build(_triton_version(endpoints, access))
        record_launcher(folder, endpoints, access, canary_secret)
        if models.budget is not None:
            require_state_pool(process.log_path, models.budget)
            for x in models.ensembles:
                if x.max_streams:
                    warm_up(endpoints.grpc_url, x.name, x.max_batch_size, x.max_streams, access)
                else:
                    warm_up_files(endpoints.grpc_url, x.name, x.max_batch_size, access)
            triton.check_state_pool()
        yield triton


@contextmanager
def _ready(
    start: Callable[[], TritonProcess], wait_until_ready: Callable[[TritonProcess], None]
) -> Generator[TritonProcess]:
    """Start tritonserver and wait until it is ready; if it aborts before, start it once more.

    Version 2.51 aborts if the machine stalls for a second while a stage's process starts.
    """
    with ExitStack() as stack:
        process = stack.enter_context(start())
        try:
            wait_until_ready(process)
        except TritonDied:
            if process.exit_code != -signal.SIGABRT:
                raise
            stack.close()
            process = stack.enter_context(start())
            wait_until_ready(process)
        yield process


def _remove_leftovers(folder: Path) -> None:
    """Remove the files in `folder` of a server that aborted while it started."""
    shutil.rmtree(folder / BACKENDS, ignore_errors=True)
    for left in (folder / HEARTBEATS).glob("*.json"):
        left.unlink()


def _start(
    install: TritonInstall,
    repository: Repository,
    endpoints: Endpoints,
    folder: Path,
    log_path: Path | None,
    *,
    model_control: bool,
    drain_s: float,
    access: Access,
    tracing: Tracing | None,
    canary_secret: str,
) -> TritonProcess:
    _remove_leftovers(folder)
    backends = make_backend_directory(folder / BACKENDS, install, repository.runtime)
    prefix = shm_prefix(folder)
    return TritonProcess(
        triton_command(
            install,
            repository,
            backends,
            endpoints,
            prefix,
            model_control=model_control,
            drain_s=drain_s,
            access_flags=access.flags(folder, http=endpoints.http_port is not None),
            tracing=tracing,
        ),
        triton_environment(install, folder / HEARTBEATS, canary_secret),
        log_path or folder / "triton.log",
        prefix,
    )


@contextmanager
def _raising_triton_died(process: TritonProcess) -> Generator[None]:
    """Raise TritonDied in place of any error of the block if tritonserver has ended."""
    try:
        yield
    except Exception as error:
        if not process.died:
            raise
        raise _died(process) from error
    if process.died:
        raise _died(process)


def _died(process: TritonProcess) -> TritonDied:
    return TritonDied(
        f"tritonserver ended with {process.exit_code}\n{failure_report(process.log_path)}"
    )


def _wait_until_ready(
    process: TritonProcess,
    endpoints: Endpoints,
    access: Access,
    models: int,
    timeout_s: float,
    progress: Progress,
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not _is_ready(endpoints, access):
        progress(loaded_models(process.log_path), models, opening_lines(process.log_path))
        if process.wait(_POLL_S) is not None:
            raise _died(process)
        if time.monotonic() > deadline_s:
            raise TritonDied(
                f"tritonserver was not ready after {timeout_s:g} s\n"
                f"{failure_report(process.log_path)}"
            )
    progress(models, models, opening_lines(process.log_path))


def _triton_version(endpoints: Endpoints, access: Access) -> str:
    with open_client(endpoints.grpc_url, access) as client:
        return str(client.get_server_metadata().version)  # pyright: ignore


def _is_ready(endpoints: Endpoints, access: Access) -> bool:
    try:
        # gRPC backs off after each refused connection; a plain socket does not.
        for address in (
            (endpoints.host, endpoints.grpc_port),
            (LOOPBACK, endpoints.triton_metrics_port),
        ):
            socket.create_connection(address, timeout=1).close()
        with open_client(endpoints.grpc_url, access) as client:
            return bool(client.is_server_ready(client_timeout=1))
    except (OSError, InferenceServerException):
        return False
