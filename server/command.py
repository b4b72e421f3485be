"""The tritonserver command line and environment, with the reason for each choice."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from .backends.earshot.earshot_runtime.canary_mark import SECRET_VARIABLE
from .backends.earshot.earshot_runtime.heartbeat import FOLDER_VARIABLE
from .locate import TritonInstall
from .ports import LOOPBACK, Endpoints
from .repository import BUNDLED_BACKEND, Repository
from .tensorrt import Budget
from .tracing import Tracing

# Room for two batches of one stage: one that runs and one that forms. With less, the shared memory
# region grows while the server is in use.
_SHM_BATCHES = 2
_LEAST_SHM_BYTES = 16 * 2**20

# While a model is replaced, the old and the new one are both loaded.
_GENERATIONS = 2

# Clients ping a connection on which a reply is late, to detect a dead network path. By default
# Triton treats more than two pings in five minutes as an attack, and disconnects.
_KEEPALIVE_FLAGS = (
    "--grpc-keepalive-permit-without-calls=1",
    "--grpc-http2-min-recv-ping-interval-without-data=1000",
)

# Each stage runs in a process of its own: BLAS or OpenMP thread pools in all of them would compete
# for the cores. ONNX Runtime's threads are set per model, and ignore these variables.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def triton_command(
    install: TritonInstall,
    repository: Repository,
    backends: Path,
    endpoints: Endpoints,
    shm_prefix: str,
    *,
    model_control: bool,
    drain_s: float,
    access_flags: Sequence[str] = (),
    tracing: Tracing | None = None,
) -> list[str]:
    """Return the full command.

    Args:
        model_control: lets clients load and unload models.
        drain_s: the seconds for which tritonserver serves open streams after SIGTERM.
        access_flags: the flags of `Access`.
        tracing: sends traces to a collector; by default there are none.
    """
    return [
        str(install.binary),
        f"--model-repository={repository.path}",
        *_tensorrt_flags(repository.budget),
        f"--backend-directory={backends}",
        # The configs are complete; Triton must not complete them from the models.
        "--disable-auto-complete-config",
        *_model_control_flags(model_control),
        "--strict-readiness=true",
        # The latency of a chunk, from its arrival to its text: of the ensemble, over a minute.
        "--metrics-config=summary_latencies=true",
        "--metrics-config=summary_quantiles=0.5:0.05,0.9:0.01,0.99:0.001",
        f"--exit-timeout-secs={math.ceil(drain_s)}",
        *_transport_flags(
            repository.max_streams * (_GENERATIONS if model_control else 1), endpoints
        ),
        *_shared_memory_flags(repository, shm_prefix),
        *access_flags,
        *(tracing.flags() if tracing else []),
    ]


def _tensorrt_flags(budget: Budget | None) -> list[str]:
    if budget is None:
        return []
    return [
        # Implicit state is kept in this pool, which cannot grow; its default size is 64 MiB.
        f"--cuda-memory-pool-byte-size=0:{budget.pool}",
        # A thread per instance, so that no stage waits for the GPU work of another.
        "--backend-config=tensorrt,execution-policy=BLOCKING",
    ]


def _model_control_flags(allowed: bool) -> list[str]:
    # All models load at start in either mode.
    if allowed:
        return ["--model-control-mode=explicit", "--load-model=*"]
    return ["--model-control-mode=none"]


def _transport_flags(max_streams: int, endpoints: Endpoints) -> list[str]:
    flags = [
        f"--grpc-address={endpoints.host}",
        f"--grpc-port={endpoints.grpc_port}",
        # Request objects beyond the pool are freed while others are in flight, which has crashed
        # the server: two per stream cover one chunk in flight and one being answered.
        f"--grpc-infer-allocation-pool-size={max(64, 2 * max_streams)}",
        *_KEEPALIVE_FLAGS,
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={endpoints.triton_metrics_port}",
    ]
    if endpoints.http_port is None:
        return [*flags, "--allow-http=false"]
    return [
        *flags,
        f"--http-address={endpoints.host}",
        f"--http-port={endpoints.http_port}",
    ]


def _shared_memory_flags(repository: Repository, prefix: str) -> list[str]:
    size = max(_LEAST_SHM_BYTES, _SHM_BATCHES * repository.batch_bytes)
    return [
        f"--backend-config={backend},{setting}"
        for backend in ("python", BUNDLED_BACKEND.name)
        for setting in (
            f"shm-region-prefix-name={prefix}",
            f"shm-default-byte-size={size}",
        )
    ]


def triton_environment(
    install: TritonInstall, heartbeats: Path, canary_secret: str
) -> dict[str, str]:
    """Return the environment that makes the backends use the running Python.

    Args:
        heartbeats: the folder of the stages' heartbeats.
        canary_secret: the secret by which the stages recognize the launcher's test chunks.
    """
    # The stub embeds Python, ignores PYTHONHOME and PYTHONPATH, and finds its home from the first
    # `python3` on PATH: if that is in a virtual environment, its packages are available.
    path = [str(install.python_dir), *filter(None, [os.environ.get("PATH")])]
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "LD_LIBRARY_PATH": install.library_path,
        FOLDER_VARIABLE: str(heartbeats),
        SECRET_VARIABLE: canary_secret,
        **dict.fromkeys(_THREAD_VARIABLES, "1"),
        "TOKENIZERS_PARALLELISM": "false",
    }
