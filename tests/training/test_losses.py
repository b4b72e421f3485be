"""The transducer loss against all paths enumerated, its gradient against finite differences."""

import itertools

import pytest
import torch
from torch import Tensor

from training.losses import transducer_loss

BLANK = 3
VOCAB_SIZE = 4


def enumerate_paths(logits: Tensor, labels: list[int]) -> float:
    """Minus log of the summed probability of all paths, each of which ends in a blank."""
    probabilities = logits.softmax(-1).tolist()
    frames, steps = len(probabilities), len(probabilities) + len(labels) - 1
    total = 0.0
    for label_steps in itertools.combinations(range(steps), len(labels)):
        frame, label, product = 0, 0, 1.0
        for step in range(steps):
            emits = step in label_steps
            product *= probabilities[frame][label][labels[label] if emits else BLANK]
            frame, label = (frame, label + 1) if emits else (frame + 1, label)
        total += product * probabilities[frames - 1][len(labels)][BLANK]
    return -float(torch.tensor(total).log())


@pytest.mark.parametrize(
    ("frames", "labels"), [(1, []), (1, [0, 1]), (3, []), (3, [2]), (4, [0, 0, 2])]
)
def test_loss_is_the_sum_over_all_paths(frames: int, labels: list[int]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, frames, len(labels) + 1, VOCAB_SIZE)
    loss = transducer_loss(
        logits,
        torch.tensor([labels], dtype=torch.long),
        torch.tensor([frames]),
        torch.tensor([len(labels)]),
        BLANK,
    )
    assert loss.item() == pytest.approx(enumerate_paths(logits[0], labels), rel=1e-5)


def test_padding_changes_neither_losses_nor_gradients() -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 5, 4, VOCAB_SIZE, requires_grad=True)
    labels = torch.randint(0, BLANK, (3, 3))
    frame_counts, label_counts = torch.tensor([5, 2, 3]), torch.tensor([3, 1, 0])
    losses = transducer_loss(logits, labels, frame_counts, label_counts, BLANK)
    losses.sum().backward()
    assert logits.grad is not None
    for i, (frames, count) in enumerate(
        zip(frame_counts.tolist(), label_counts.tolist(), strict=True)
    ):
        alone = logits[i, :frames, : count + 1].detach()
        assert losses[i].item() == pytest.approx(
            enumerate_paths(alone, labels[i, :count].tolist()), rel=1e-5
        )
        outside = logits.grad[i].clone()
        outside[:frames, : count + 1] = 0.0
        assert outside.abs().max() == 0.0


def test_gradient_matches_finite_differences() -> None:
    torch.manual_seed(2)
    logits = torch.randn(2, 4, 3, VOCAB_SIZE, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 2], [1, 1]])

    def loss(values: Tensor) -> Tensor:
        return transducer_loss(values, labels, torch.tensor([4, 3]), torch.tensor([2, 1]), BLANK)

    assert torch.autograd.gradcheck(loss, (logits,))
