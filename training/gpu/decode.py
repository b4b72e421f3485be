"""Transcribe whole batches greedily on the device, and count word errors."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import NemotronAsrStreamingForRNNT

from training.model import joint_logits

SYMBOLS_PER_FRAME = 3


def ctc_ids(
    model: NemotronAsrStreamingForRNNT, encoded: Tensor, counts: list[int]
) -> list[list[int]]:
    """Return the ids by CTC over the joint network, without repetitions and blanks."""
    blank = model.config.blank_token_id
    best = joint_logits(model, encoded).argmax(-1).tolist()
    found: list[list[int]] = []
    for row, count in zip(best, counts, strict=True):
        row = row[:count]
        changes = [i for n, i in enumerate(row) if n == 0 or i != row[n - 1]]
        found.append([i for i in changes if i != blank])
    return found


def transducer_ids(
    model: NemotronAsrStreamingForRNNT, encoded: Tensor, counts: Tensor
) -> list[list[int]]:
    """Return the ids of the transducer, the likeliest at each step, at most three per frame."""
    blank, decoder = model.config.blank_token_id, model.decoder
    token = torch.full((len(encoded), 1), blank, device=encoded.device)
    output, (hidden, cell) = decoder.lstm(decoder.embedding(token))
    predicted = decoder.decoder_projector(output)[:, 0]
    steps: list[Tensor] = []
    for t in range(encoded.shape[1]):
        for _ in range(SYMBOLS_PER_FRAME):
            best = joint_logits(model, encoded[:, t] + predicted).argmax(-1)
            emits = (best != blank) & (t < counts)
            steps.append(torch.where(emits, best, blank))
            output, (next_hidden, next_cell) = decoder.lstm(
                decoder.embedding(best[:, None]), (hidden, cell)
            )
            projected = decoder.decoder_projector(output)[:, 0]
            predicted = torch.where(emits[:, None], projected, predicted)
            hidden = torch.where(emits[None, :, None], next_hidden, hidden)
            cell = torch.where(emits[None, :, None], next_cell, cell)
    return [[i for i in row if i != blank] for row in torch.stack(steps, 1).tolist()]


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return the smallest number of insertions, deletions and substitutions of words."""
    costs = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, costs[0] = costs[0], i
        for j, other in enumerate(hypothesis, 1):
            diagonal, costs[j] = (
                costs[j],
                min(costs[j] + 1, costs[j - 1] + 1, diagonal + (word != other)),
            )
    return costs[-1]
