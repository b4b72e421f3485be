"""Schedule learning rate and mixture by the elapsed share of the training time."""

import math

from training.gpu.pool import Mixture

WARM_UP_SHARE = 0.03
LAST_PART = 0.7
"""Share of the time after which most speech is real and less augmented."""
FINAL_RATE = 1e-5


def learning_rate(share: float, peak: float) -> float:
    """Return the learning rate: a linear rise, then a cosine decay to the final rate."""
    if share < WARM_UP_SHARE:
        return peak * max(share / WARM_UP_SHARE, 0.01)
    fallen = min(1.0, (share - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))
    return FINAL_RATE + (peak - FINAL_RATE) * (1 + math.cos(math.pi * fallen)) / 2


def mixture(share: float, batch_seconds: float) -> Mixture:
    """Return the mixture: half real speech at first, to learn words that no recording has."""
    if share < LAST_PART:
        return Mixture(0.55, 0.95, batch_seconds)
    return Mixture(0.85, 0.9, batch_seconds)
