"""Learning rate and mixture of the training, by the share of its wall-clock time that is over."""

import math

from training.gpu.pool import Mixture

WARM_UP_SHARE = 0.03
LAST_PART = 0.7
"""From here on mostly real speech, less varied."""
FINAL_RATE = 1e-5


def learning_rate(share: float, peak: float) -> float:
    """Rise in a straight line, then fall along a cosine to the final rate."""
    if share < WARM_UP_SHARE:
        return peak * max(share / WARM_UP_SHARE, 0.01)
    fallen = min(1.0, (share - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))
    return FINAL_RATE + (peak - FINAL_RATE) * (1 + math.cos(math.pi * fallen)) / 2


def mixture(share: float, batch_seconds: float) -> Mixture:
    """Half real speech first, so that words are learnt that no recording has."""
    if share < LAST_PART:
        return Mixture(0.55, 0.95, batch_seconds)
    return Mixture(0.85, 0.9, batch_seconds)
