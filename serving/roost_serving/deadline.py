"""When a caller stops waiting."""

import time


class Deadline:
    """A moment that each stage of an item's way asks how much time is left.

    Args:
        seconds: From now; None: never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._moment = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds until then, 0 once it has passed; None: never."""
        return None if self._moment is None else max(0.0, self._moment - time.monotonic())
