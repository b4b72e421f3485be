"""Compute the transducer loss, vectorized over the anti-diagonals of its lattice.

torch has no implementation for the CPU. A path through the lattice moves one frame (blank) or one
label per step, so all cells with the same frame + label depend only on the previous diagonal: this
takes one short tensor operation for each of T + U diagonals. Gradients are the occupation
probabilities of the edges, from a forward and a backward sweep; the operations between them and the
logits (log-softmax, gather) are left to autograd.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IMPOSSIBLE = -1e30
"""Stands for log 0; finite, so that the difference of two impossible cells is not NaN."""


def transducer_loss(
    logits: Tensor, labels: Tensor, frame_counts: Tensor, label_counts: Tensor, blank: int
) -> Tensor:
    """Return the negative log-likelihood of each utterance, (B,).

    `logits` (B, T, U + 1, V) unnormalized, `labels` (B, U) without blanks, `frame_counts` (B,) in
    1..T and `label_counts` (B,) in 0..U. Values past an utterance's counts have no influence.
    """
    normalizer = logits.logsumexp(dim=-1)
    blanks = logits[..., blank] - normalizer
    index = labels[:, None, :, None].expand(-1, logits.shape[1], -1, -1)
    emits = logits[:, :, :-1].gather(-1, index).squeeze(-1) - normalizer[:, :, :-1]
    return lattice_loss(blanks, emits, frame_counts, label_counts)


def lattice_loss(
    blanks: Tensor, emits: Tensor, frame_counts: Tensor, label_counts: Tensor
) -> Tensor:
    """Return the loss from the edges: log P(blank) (B, T, U + 1), log P(next label) (B, T, U)."""
    return _LatticeLoss.apply(blanks, emits, frame_counts, label_counts)  # type: ignore[no-any-return]


def _skew(edges: Tensor) -> Tensor:
    """(B, T, W) -> (T + W - 1, B, W): row n holds the cells whose frame + label is n."""
    batch, frames, width = edges.shape
    padded = edges.new_full((batch, frames + width, width), IMPOSSIBLE)
    padded[:, :frames] = edges
    # Column u moves down by u rows: read the transposed block with rows one element longer.
    flat = padded.transpose(1, 2).reshape(batch, -1)[:, : width * (frames + width - 1)]
    return flat.view(batch, width, frames + width - 1).permute(2, 0, 1).contiguous()


def _unskew(diagonals: Tensor, frames: int) -> Tensor:
    """Inverse of `_skew`: (T + W - 1, B, W) -> (B, T, W)."""
    rows, batch, width = diagonals.shape
    padded = diagonals.new_zeros(batch, width * (rows + 1))
    padded[:, : width * rows] = diagonals.permute(1, 2, 0).reshape(batch, -1)
    return padded.view(batch, width, rows + 1)[:, :, :frames].transpose(1, 2)


class _LatticeLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, blanks: Tensor, emits: Tensor, frame_counts: Tensor, label_counts: Tensor
    ) -> Tensor:
        frames = blanks.shape[1]
        utterance = torch.arange(blanks.shape[0], device=blanks.device)
        last_cell = (frame_counts - 1, label_counts)
        final_blank = blanks[utterance, *last_cell]
        inside_blanks, inside_emits = _mask_edges(blanks, emits, frame_counts, label_counts)
        down, right = _skew(inside_blanks), _skew(inside_emits)
        alpha = _forward_sweep(down, right)
        beta = _backward_sweep(
            down, right, frame_counts - 1 + label_counts, label_counts, final_blank
        )
        total = beta[0, :, 0]
        ctx.frames = frames
        ctx.save_for_backward(down, right, alpha, beta, total, final_blank)
        ctx.last_cell = last_cell
        return -total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        down, right, alpha, beta, total, _ = ctx.saved_tensors
        after = torch.cat([beta[1:], torch.full_like(beta[:1], IMPOSSIBLE)])
        after_right = torch.cat([after[..., 1:], torch.full_like(after[..., :1], IMPOSSIBLE)], -1)
        through_blank = (alpha + down + after - total[:, None]).exp()
        through_emit = (alpha + right + after_right - total[:, None]).exp()
        scale = -grad_outputs[0][:, None, None]
        grad_blanks = _unskew(through_blank, ctx.frames)
        # Every path ends with the blank on the last cell.
        utterance = torch.arange(len(total), device=total.device)
        grad_blanks[utterance, *ctx.last_cell] = 1.0
        grad_emits = _unskew(through_emit, ctx.frames)[..., :-1]
        return grad_blanks * scale, grad_emits * scale, None, None


def _mask_edges(
    blanks: Tensor, emits: Tensor, frame_counts: Tensor, label_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Make edges outside each utterance's lattice impossible; both are (B, T, U + 1)."""
    frame = torch.arange(blanks.shape[1], device=blanks.device)[None, :, None]
    label = torch.arange(blanks.shape[2], device=blanks.device)[None, None, :]
    frame_counts, label_counts = frame_counts[:, None, None], label_counts[:, None, None]
    emits = functional.pad(emits, (0, 1), value=IMPOSSIBLE)
    stays_down = (frame < frame_counts - 1) & (label <= label_counts)
    stays_right = (frame < frame_counts) & (label < label_counts)
    return blanks.masked_fill(~stays_down, IMPOSSIBLE), emits.masked_fill(~stays_right, IMPOSSIBLE)


def _forward_sweep(down: Tensor, right: Tensor) -> Tensor:
    """Log P(reaching a cell), skewed."""
    alpha = torch.full_like(down, IMPOSSIBLE)
    alpha[0, :, 0] = 0.0
    for n in range(1, len(down)):
        torch.add(alpha[n - 1], down[n - 1], out=alpha[n])
        by_label = alpha[n - 1, :, :-1] + right[n - 1, :, :-1]
        alpha[n, :, 1:] = torch.logaddexp(alpha[n, :, 1:], by_label)
        alpha[n].clamp_(min=IMPOSSIBLE)
    return alpha


def _backward_sweep(
    down: Tensor, right: Tensor, last_diagonal: Tensor, last_label: Tensor, final_blank: Tensor
) -> Tensor:
    """Log P(finishing from a cell), skewed; the last cell finishes with its final blank."""
    beta = torch.full_like(down, IMPOSSIBLE)
    utterance = torch.arange(down.shape[1], device=down.device)
    for n in range(len(down) - 1, -1, -1):
        if n + 1 < len(down):
            torch.add(beta[n + 1], down[n], out=beta[n])
            by_label = beta[n + 1, :, 1:] + right[n, :, :-1]
            beta[n, :, :-1] = torch.logaddexp(beta[n, :, :-1], by_label)
            beta[n].clamp_(min=IMPOSSIBLE)
        ends_here = last_diagonal == n
        beta[n, utterance[ends_here], last_label[ends_here]] = final_blank[ends_here]
    return beta
