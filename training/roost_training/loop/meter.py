"""How fast an epoch goes, and what of its time is spent waiting for data."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Meter:
    """Counts from its making to `stop`."""

    def __init__(self) -> None:
        self.images = 0
        self._waited = 0.0
        self._start = time.monotonic()
        self._end: float | None = None

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass batches through, timing how long each is waited for."""
        iterator = iter(batches)
        while True:
            before = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited += time.monotonic() - before
            yield batch

    def stop(self) -> None:
        """The epoch's steps are made; what follows is not counted."""
        self._end = time.monotonic()

    def figures(self) -> dict[str, float]:
        """`images_per_second`, and `data_wait`, a share of the time."""
        seconds = max((self._end or time.monotonic()) - self._start, 1e-9)
        return {"images_per_second": self.images / seconds, "data_wait": self._waited / seconds}
