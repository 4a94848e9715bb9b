"""How often a caller may do something: a bucket for each, which its rate fills."""

import time
from dataclasses import dataclass, field

BURST_SECONDS = 1.0
"""A caller may spend so much of its rate at once."""


@dataclass
class Bucket:
    """What a caller may still spend of its rate; a call larger than that is let in, and paid for afterwards."""

    rate: float
    level: float
    at: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """How long until something is left: 0 where there is."""
        now = time.monotonic()
        self.level = min(self.level + (now - self.at) * self.rate, _full(self.rate))
        self.at = now
        return 0.0 if self.level > 0 else -self.level / self.rate + 1e-3


class Rates:
    """A bucket for each caller that has a rate."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def of(self, name: str, rate: float | None) -> Bucket | None:
        """A caller's bucket; None where it has no rate. A full one where its rate is another than before."""
        if rate is None:
            self._buckets.pop(name, None)
            return None
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:  # the keys may have been changed
            bucket = self._buckets[name] = Bucket(rate, level=_full(rate))
        return bucket


def _full(rate: float) -> float:
    return max(1.0, rate * BURST_SECONDS)
