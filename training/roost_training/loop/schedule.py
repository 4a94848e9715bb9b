"""How far training is, and how the learning rate follows."""

import math
import resource
import time
from dataclasses import dataclass


@dataclass
class Clock:
    """The share of a training that is done: by steps, or by a budget of time that runs out first.

    Args:
        steps: Steps in all.
        max_seconds: Of wall-clock time; None for no limit.
        max_cpu_seconds: Of all processes' user and system time; None for no limit.
        seconds: Spent before, by a run that is resumed.
        cpu_seconds: Likewise.
    """

    steps: int
    max_seconds: float | None = None
    max_cpu_seconds: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def count(self, lap: tuple[float, float]) -> None:
        """Add what was spent: seconds, and processor seconds."""
        self.seconds += lap[0]
        self.cpu_seconds += lap[1]

    def progress(self, step: int) -> float:
        """The share that is done after so many steps, 0 to 1."""
        spent = [(self.seconds, self.max_seconds), (self.cpu_seconds, self.max_cpu_seconds)]
        return min(1.0, max(step / self.steps, *(done / limit for done, limit in spent if limit), 0.0))


class Stopwatch:
    """What this process spends, from its making and from lap to lap."""

    def __init__(self) -> None:
        self._last = _now()

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and this process's user and system time, with its children's that ended."""
        before, self._last = self._last, _now()
        return self._last[0] - before[0], self._last[1] - before[1]


def _now() -> tuple[float, float]:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.monotonic(), sum(usage.ru_utime + usage.ru_stime for usage in used)


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
