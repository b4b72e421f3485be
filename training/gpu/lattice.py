"""Compute the transducer loss on a GPU, with one kernel launch for both sweeps of the lattice.

The sweeps of `losses.py` take two operations per anti-diagonal, that is thousands of launches. Here
a block of threads sweeps one utterance: each thread owns a label position, and the diagonals pass
through shared memory. The kernel is compiled by the machine's NVRTC when training begins, and is
used only if it agrees with `lattice_loss`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from training.losses import lattice_loss, transducer_loss

LatticeLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TransducerLoss = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

MAX_LABELS = 1023
SOURCE = r"""
__device__ float log_add(float a, float b) {
    float high = fmaxf(a, b), low = fminf(a, b);
    if (high < -1e29f) return -1e30f;
    return high + log1pf(expf(low - high));
}

// Block (utterance, 0) fills alpha, block (utterance, 1) fills beta; both are (B, T, U + 1).
// alpha: log P(reaching a cell). beta: log P(finishing from a cell), its last blank included.
extern "C" __global__ void sweep(
    const float* blanks, const float* emits, const long long* frame_counts,
    const long long* label_counts, float* alpha, float* beta, float* total, int T, int U) {
    extern __shared__ float shared[];
    const int W = U + 1;
    const int b = blockIdx.x, u = threadIdx.x;
    const int frames = (int)frame_counts[b], labels = (int)label_counts[b];
    const float* down = blanks + (long long)b * T * W;
    const float* right = emits + (long long)b * T * U;
    const int diagonals = frames + labels;
    float* before = shared;
    float* now = shared + blockDim.x;
    before[u] = -1e30f;
    now[u] = -1e30f;
    __syncthreads();
    for (int n = 0; n < diagonals; n++) {
        float value = -1e30f;
        if (blockIdx.y == 0) {
            const int t = n - u;
            if (u <= labels && t >= 0 && t < frames) {
                if (n == 0) value = 0.0f;
                else {
                    float by_blank = t > 0 ? before[u] + down[(long long)(t - 1) * W + u] : -1e30f;
                    float by_label =
                        u > 0 ? before[u - 1] + right[(long long)t * U + u - 1] : -1e30f;
                    value = log_add(by_blank, by_label);
                }
                alpha[((long long)b * T + t) * W + u] = value;
            }
        } else {
            const int t = diagonals - 1 - n - u;
            if (u <= labels && t >= 0 && t < frames) {
                const float blank = down[(long long)t * W + u];
                if (n == 0) value = blank;
                else {
                    float by_blank = t + 1 < frames ? before[u] + blank : -1e30f;
                    float by_label =
                        u < labels ? before[u + 1] + right[(long long)t * U + u] : -1e30f;
                    value = log_add(by_blank, by_label);
                }
                beta[((long long)b * T + t) * W + u] = value;
                if (t == 0 && u == 0) total[b] = value;
            }
        }
        now[u] = value;
        __syncthreads();
        float* swap = before;
        before = now;
        now = swap;
    }
}

// One block per (frame, utterance): derivatives of log P by the edges, zero outside the lattice.
extern "C" __global__ void occupation(
    const float* blanks, const float* emits, const long long* frame_counts,
    const long long* label_counts, const float* alpha, const float* beta, const float* total,
    const float* scale, float* grad_blanks, float* grad_emits, int T, int U) {
    const int W = U + 1;
    const int t = blockIdx.x, b = blockIdx.y, u = threadIdx.x;
    if (u > U) return;
    const int frames = (int)frame_counts[b], labels = (int)label_counts[b];
    const long long cell = ((long long)b * T + t) * W + u;
    const long long edge = ((long long)b * T + t) * U + u;
    float by_blank = 0.0f, by_label = 0.0f;
    if (t < frames && u <= labels) {
        const float reached = alpha[cell] - total[b];
        if (t + 1 < frames) by_blank = expf(reached + blanks[cell] + beta[cell + W]);
        else if (u == labels) by_blank = 1.0f;
        if (u < labels) by_label = expf(reached + emits[edge] + beta[cell + 1]);
    }
    grad_blanks[cell] = by_blank * scale[b];
    if (u < U) grad_emits[edge] = by_label * scale[b];
}
"""


@cache
def _kernels() -> tuple[Any, Any]:
    compile_kernel: Any = torch.cuda._compile_kernel  # pyright: ignore[reportPrivateUsage]
    return compile_kernel(SOURCE, "sweep"), compile_kernel(SOURCE, "occupation")


class _KernelLattice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, blanks: Tensor, emits: Tensor, frame_counts: Tensor, label_counts: Tensor
    ) -> Tensor:
        blanks, emits = blanks.contiguous(), emits.contiguous()
        batch, frames, width = blanks.shape
        alpha, beta = torch.empty_like(blanks), torch.empty_like(blanks)
        total = blanks.new_empty(batch)
        threads = _threads(width)
        _kernels()[0](
            grid=(batch, 2, 1),
            block=(threads, 1, 1),
            args=[
                *(blanks, emits, frame_counts, label_counts, alpha, beta, total),
                *(frames, width - 1),
            ],
            shared_mem=2 * 4 * threads,
        )
        ctx.save_for_backward(blanks, emits, frame_counts, label_counts, alpha, beta, total)
        return -total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        blanks, emits, frame_counts, label_counts, alpha, beta, total = ctx.saved_tensors
        batch, frames, width = blanks.shape
        grad_blanks, grad_emits = torch.empty_like(blanks), torch.empty_like(emits)
        scale = (-grad_outputs[0]).contiguous()
        _kernels()[1](
            grid=(frames, batch, 1),
            block=(_threads(width), 1, 1),
            args=[
                *(blanks, emits, frame_counts, label_counts, alpha, beta, total, scale),
                *(grad_blanks, grad_emits, frames, width - 1),
            ],
        )
        return grad_blanks, grad_emits, None, None


def _threads(width: int) -> int:
    if width > MAX_LABELS + 1:
        raise ValueError(f"at most {MAX_LABELS} labels fit a block, got {width - 1}")
    return (width + 31) // 32 * 32


def kernel_lattice_loss(
    blanks: Tensor, emits: Tensor, frame_counts: Tensor, label_counts: Tensor
) -> Tensor:
    """Compute `lattice_loss` with the kernel; the counts are int64 on the device of the edges."""
    return _KernelLattice.apply(blanks, emits, frame_counts, label_counts)  # type: ignore[no-any-return]


class _Edges(torch.autograd.Function):
    """Log P(blank) and log P(next label) of logits; backward uses only one tensor of their size."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, blank: int) -> tuple[Tensor, Tensor]:
        normalizer = logits.float().logsumexp(dim=-1)
        index = labels[:, None, :, None].expand(-1, logits.shape[1], -1, -1)
        emits = logits[:, :, :-1].gather(-1, index).squeeze(-1).float()
        ctx.save_for_backward(logits, normalizer, index)
        ctx.blank = blank
        return logits[..., blank].float() - normalizer, emits - normalizer[:, :, :-1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad_blanks, grad_emits = grad_outputs
        logits, normalizer, index = ctx.saved_tensors
        through = grad_blanks.clone()
        through[:, :, :-1] += grad_emits
        grad = (logits.float() - normalizer[..., None]).exp_().mul_(-through[..., None])
        grad[..., ctx.blank] += grad_blanks
        grad[:, :, :-1].scatter_add_(-1, index, grad_emits[..., None])
        return grad.to(logits.dtype), None, None


def edges_of(logits: Tensor, labels: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Return log P(blank) (B, T, U + 1), log P(next label) (B, T, U) of logits (B, T, U + 1, V)."""
    return _Edges.apply(logits, labels, blank)  # type: ignore[no-any-return]


def by_edges(lattice: LatticeLoss) -> TransducerLoss:
    """Return a transducer loss of logits that uses this sweep of the lattice."""

    def loss(logits: Tensor, labels: Tensor, frames: Tensor, counts: Tensor, blank: int) -> Tensor:
        blanks, emits = edges_of(logits, labels, blank)
        return lattice(blanks, emits, frames, counts)

    return loss


def torchaudio_loss(
    logits: Tensor, labels: Tensor, frames: Tensor, counts: Tensor, blank: int
) -> Tensor:
    """Return the loss by torchaudio, which accepts only 32-bit numbers."""
    from torchaudio.functional import rnnt_loss  # pyright: ignore[reportMissingImports]

    # torchaudio refuses padding that no utterance of the batch needs.
    longest, most = int(frames.max()), int(counts.max())
    needed = logits[:, :longest, : most + 1].float().contiguous()
    return rnnt_loss(  # type: ignore[no-any-return]
        needed,
        labels[:, :most].int().contiguous(),
        frames.int(),
        counts.int(),
        blank=blank,
        reduction="none",
    )


@dataclass(frozen=True)
class Sample:
    """Random logits with utterances of several lengths."""

    logits: Tensor
    labels: Tensor
    frame_counts: Tensor
    label_counts: Tensor

    @staticmethod
    def draw(device: torch.device, batch: int = 5, frames: int = 37, labels: int = 41) -> "Sample":
        """Draw a sample with padding; one utterance uses all labels, and one has none."""
        random = torch.Generator().manual_seed(1)
        frame_counts = torch.randint(1, frames - 1, (batch,), generator=random)
        label_counts = torch.randint(0, labels + 1, (batch,), generator=random)
        frame_counts[0], label_counts[0], label_counts[1] = frames - 2, labels, 0
        return Sample(
            3 * torch.randn(batch, frames, labels + 1, 192, generator=random).to(device),
            torch.randint(0, 191, (batch, labels), generator=random).to(device),
            frame_counts.to(device),
            label_counts.to(device),
        )

    def value_and_gradient(self, loss: TransducerLoss, blank: int = 191) -> tuple[Tensor, Tensor]:
        """Return the losses (B,) and the gradient of their weighted sum."""
        logits = self.logits.clone().requires_grad_()
        values = loss(logits, self.labels, self.frame_counts, self.label_counts, blank)
        weights = torch.linspace(0.5, 1.5, len(values), device=values.device)
        (gradient,) = torch.autograd.grad((values * weights).sum(), logits)
        return values.detach(), gradient


def choose_transducer_loss(
    device: torch.device, log: Callable[[str], None], kernel: bool = True
) -> TransducerLoss:
    """Return the fastest loss that agrees with `transducer_loss` on a sample.

    Args:
        device: Device on which the loss runs.
        log: Called with lines about the losses that are and are not used.
        kernel: True to try our own kernel.
    """
    reference: TransducerLoss = transducer_loss
    candidates: dict[str, TransducerLoss] = {}
    if device.type == "cuda":
        candidates = {"kernel": by_edges(kernel_lattice_loss)} if kernel else {}
        candidates["torchaudio"] = torchaudio_loss
    expected = Sample.draw(device).value_and_gradient(reference)
    for name, candidate in candidates.items():
        try:
            _check(Sample.draw(device).value_and_gradient(candidate), expected)
            log(f"transducer loss: {name}, {_time(candidate, device):.2f} ms for 32 x 8 s")
        except Exception as error:  # Whatever fails in a fast loss, the slow one remains.
            log(f"transducer loss: {name} is not used: {type(error).__name__}: {error}"[:500])
            continue
        return candidate
    log("transducer loss: torch, one operation per diagonal")
    return by_edges(lattice_loss)


def _check(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-2, atol=1e-4)


def _time(loss: TransducerLoss, device: torch.device) -> float:
    sample = Sample.draw(device, 32, 100, 60)
    for _ in range(2):
        sample.value_and_gradient(loss)
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(5):
        sample.value_and_gradient(loss)
    torch.cuda.synchronize()
    return (time.monotonic() - began) * 200
