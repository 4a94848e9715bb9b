"""How much work the gateway holds at once: refused at once beyond a bound, never queued without one."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from roost.errors import Overloaded, TooLarge

RETRY_AFTER_SECONDS = 0.5
STREAM_SHARE = 0.75
"""Streams fill this share of the limit; the rest stays free for calls, so that a bulk load never shuts them out."""


class Admission:
    """Counts the images in flight.

    Args:
        limit: Images that may be held at once.
        observe: Told the number held, whenever it changes.
    """

    def __init__(self, limit: int, observe: Callable[[int], None]) -> None:
        self.limit = limit
        self.held = 0
        self._stream_limit = max(1, int(limit * STREAM_SHARE))
        self._observe = observe
        self._waiting: deque[asyncio.Future[None]] = deque()

    @contextmanager
    def take(self, images: int) -> Iterator[None]:
        """Hold images while they are worked on, or refuse at once.

        Raises:
            TooLarge: More than may ever be held.
            Overloaded: More than may be held now.
        """
        if images > self.limit:
            raise TooLarge(
                f"The call has {images} images; this gateway holds {self.limit} at once. Send fewer in a call.",
                images=images,
                limit=self.limit,
            )
        if self.held + images > self.limit:
            raise Overloaded(
                f"The gateway holds {self.held} of {self.limit} images. Try again in {RETRY_AFTER_SECONDS} s.",
                in_flight=self.held,
                limit=self.limit,
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._hold(images)
        try:
            yield
        finally:
            self._release(images)

    @asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        """Hold one image of a stream, once there is room: a stream is slowed down, not refused."""
        if self.held >= self._stream_limit or self._waiting:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn  # whoever wakes it has already counted the image
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release(1)
                elif turn in self._waiting:
                    self._waiting.remove(turn)
                raise
        else:
            self._hold(1)
        try:
            yield
        finally:
            self._release(1)

    def _hold(self, images: int) -> None:
        self.held += images
        self._observe(self.held)

    def _release(self, images: int) -> None:
        self._hold(-images)
        while self._waiting and self.held < self._stream_limit:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._hold(1)
                turn.set_result(None)
