"""Fit heads to encoded recordings, in seconds to minutes on one core."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.head.frames import EncodedRecordings
from training.head.model import Heads

BATCH_SIZE = 32
PEAK_RATE = 3e-3
WEIGHT_DECAY = 0.05
MASKED_SHARE = 0.15
"""Share of the frames that are masked in a step, so that no head depends on single frames."""
UNKNOWN = -1
"""Answer for a recording of a test set with a label that no recording of `--data` has."""


def fit(
    speech: EncodedRecordings,
    answers: Tensor,
    heads: Heads,
    passes: int,
    on_step: Callable[[float], None],
) -> None:
    """Train `heads` on the right labels int64 [recordings, heads]; report the loss of each step."""
    heads.normalize_by(speech.frames.float())
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(heads.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=steps_of(len(answers), passes)
    )
    heads.train()
    for _ in range(passes):
        for chosen in torch.randperm(len(answers), generator=generator).split(BATCH_SIZE):
            frames, counts = speech.batch(chosen.tolist())
            seen = torch.rand(frames.shape[:2], generator=generator) > MASKED_SHARE
            loss = _loss(heads(frames, counts, seen), answers[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            on_step(loss.item())
    heads.eval()


def steps_of(recordings: int, passes: int) -> int:
    """Return the number of training steps."""
    return passes * -(-recordings // BATCH_SIZE)


def _loss(logits: list[Tensor], answers: Tensor) -> Tensor:
    return torch.stack(
        [functional.cross_entropy(each, answers[:, head]) for head, each in enumerate(logits)]
    ).sum()
