"""How far training is, and how the learning rate follows."""

import math
import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """The share of a training that is done: by steps, or by a budget of time that runs out first.

    Args:
        steps: Steps in all.
        max_seconds: Of wall-clock time; None for no limit.
        max_cpu_seconds: Of this process's user and system time; None for no limit.
        seconds: Spent before, by a run that is resumed.
        cpu_seconds: Likewise.
    """

    steps: int
    max_seconds: float | None = None
    max_cpu_seconds: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _last: tuple[float, float] = field(default_factory=lambda: (time.monotonic(), time.process_time()))

    def progress(self, step: int) -> float:
        """The share that is done after so many steps, 0 to 1."""
        wall, cpu = time.monotonic(), time.process_time()
        self.seconds += wall - self._last[0]
        self.cpu_seconds += cpu - self._last[1]
        self._last = (wall, cpu)
        spent = [(self.seconds, self.max_seconds), (self.cpu_seconds, self.max_cpu_seconds)]
        return min(1.0, max(step / self.steps, *(done / limit for done, limit in spent if limit), 0.0))


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
