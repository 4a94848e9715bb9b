"""How the learning rate moves while training goes on."""

import math


def cosine(progress: float, *, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to zero (SGDR without restarts).

    Loshchilov, Hutter, ICLR 2017, equation 5, https://arxiv.org/abs/1608.03983

    Args:
        progress: The share of training that is done, 0 to 1.
        warmup: The share that warms up, 0 to 1.

    Returns:
        What the peak learning rate is multiplied by, 0 to 1.
    """
    if progress < warmup:
        return progress / warmup
    done = (min(progress, 1.0) - warmup) / (1.0 - warmup) if warmup < 1 else 1.0
    return 0.5 * (1.0 + math.cos(math.pi * done))
