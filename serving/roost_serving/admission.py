"""How much work the gateway holds at once, in all and for each caller: beyond, it is refused at once."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from roost.errors import Overloaded, RateLimited, TooLarge
from roost_serving import callers
from roost_serving.callers import ANYONE, Caller
from roost_serving.fair import Turns
from roost_serving.rates import Rates

RETRY_AFTER_SECONDS = 0.5
STREAM_SHARE = 0.75
"""Streams fill this share of a limit; the rest stays free for calls, so that a bulk load never shuts them out."""
CALLER_SHARE = 0.5
"""Of a limit, what one key may fill, so that another always finds room."""


class Load(NamedTuple):
    """What a call, or an item of a stream, makes the gateway hold."""

    images: int
    bytes: int

    def __add__(self, other: "Load") -> "Load":  # type: ignore[override]  # not the concatenation of two tuples
        return Load(self.images + other.images, self.bytes + other.bytes)

    def __sub__(self, other: "Load") -> "Load":
        return Load(self.images - other.images, self.bytes - other.bytes)

    def fits(self, limit: "Load") -> bool:
        """Whether it is within a limit."""
        return self.images <= limit.images and self.bytes <= limit.bytes

    def share(self, share: float) -> "Load":
        """A part of it, but at least one of each."""
        return Load(max(1, int(self.images * share)), max(1, int(self.bytes * share)))


NOTHING = Load(0, 0)


@dataclass(eq=False)
class Waiting:
    """An item of a stream that waits for room."""

    caller: Caller
    load: Load
    turn: asyncio.Future[None]


class Admission:
    """Counts the images and bytes in flight.

    Args:
        limit: What may be held at once.
        observe: Told what is held, whenever it changes.
    """

    def __init__(self, limit: Load, observe: Callable[[Load], None]) -> None:
        self.limit = limit
        self.held = NOTHING
        self._own: dict[str, Load] = defaultdict(lambda: NOTHING)
        self._observe = observe
        self._waiting: Turns[Waiting] = Turns()
        self._rates = Rates()

    @property
    def waiting(self) -> int:
        """Items of streams that wait for room."""
        return len(self._waiting)

    @contextmanager
    def take(self, load: Load) -> Iterator[None]:
        """Hold a call's images while they are worked on, or refuse at once.

        Raises:
            TooLarge: More than may ever be held.
            Overloaded: More than may be held now.
            RateLimited: The caller has spent its rate.
        """
        self.check(load)
        caller = callers.current()
        self._spend(caller, load)
        self._hold(caller, load)
        try:
            yield
        finally:
            self._release(caller, load)

    def check(self, load: Load) -> None:
        """Refuse a call that could not be held: before it is read, which costs more than to refuse it.

        Raises:
            TooLarge: More than may ever be held.
            Overloaded: More than may be held now.
        """
        caller = callers.current()
        limit = self._limit_of(caller)
        if not load.fits(limit):
            raise TooLarge(
                f"The call has {load.images} images of {load.bytes} bytes in all; this gateway holds {limit.images} "
                f"of {limit.bytes} bytes at once for a caller. Send fewer in a call.",
                images=load.images,
                bytes=load.bytes,
                limit=limit.images,
                limit_bytes=limit.bytes,
            )
        bounds = ((self._own[caller.name], limit, ", of what it may hold for this caller"), (self.held, self.limit, ""))
        for held, bound, whose in bounds:
            if not (held + load).fits(bound):
                raise Overloaded(
                    f"The gateway holds {held.images} of {bound.images} images, and {held.bytes} of {bound.bytes} "
                    f"bytes{whose}. Try again in {RETRY_AFTER_SECONDS} s.",
                    in_flight=held.images,
                    limit=bound.images,
                    retry_after_seconds=RETRY_AFTER_SECONDS,
                )

    async def enter(self, load: Load) -> Callable[[], None]:
        """Hold an item of a stream once there is room and the caller's rate allows it: it is slowed, not refused.

        Callers wait in turns.

        Returns:
            What lets the item go, to be called once.
        """
        caller = callers.current()
        await self._pace(caller, load)
        if len(self._waiting) or not self._has_room(caller, load):
            waiting = Waiting(caller, load, asyncio.get_running_loop().create_future())
            self._waiting.put(caller.name, waiting)
            self._wake()  # those before it may wait for limits of their own
            try:
                await waiting.turn  # whoever wakes it has already counted it
            except asyncio.CancelledError:
                if waiting.turn.done() and not waiting.turn.cancelled():
                    self._release(caller, load)
                else:
                    self._waiting.drop(caller.name, waiting)
                raise
        else:
            self._hold(caller, load)
        return partial(self._release, caller, load)

    def _has_room(self, caller: Caller, load: Load) -> bool:
        """Whether a stream's item may be held now; one that is larger than streams' share may where nothing is held."""
        of_all = (self.held + load).fits(self.limit.share(STREAM_SHARE)) or self.held == NOTHING
        own = self._own[caller.name]
        return of_all and ((own + load).fits(self._limit_of(caller).share(STREAM_SHARE)) or own == NOTHING)

    def _limit_of(self, caller: Caller) -> Load:
        if caller is ANYONE:
            return self.limit
        share = self.limit.share(CALLER_SHARE)
        return share if caller.in_flight is None else share._replace(images=min(caller.in_flight, self.limit.images))

    def _spend(self, caller: Caller, load: Load) -> None:
        bucket = self._rates.of(caller.name, caller.images_per_second)
        if bucket is None:
            return
        if seconds := bucket.seconds():
            raise RateLimited(
                f"The key {caller.name!r} may send {bucket.rate:g} images a second. Try again in {seconds:.3g} s.",
                rate=bucket.rate,
                retry_after_seconds=f"{seconds:.3f}",
            )
        bucket.level -= load.images

    async def _pace(self, caller: Caller, load: Load) -> None:
        bucket = self._rates.of(caller.name, caller.images_per_second)
        if bucket is not None:
            bucket.level -= load.images  # at once, so that items that wait do so one after the other
            if seconds := bucket.seconds():
                await asyncio.sleep(seconds)

    def _hold(self, caller: Caller, load: Load) -> None:
        self.held += load
        self._own[caller.name] += load
        self._observe(self.held)

    def _release(self, caller: Caller, load: Load) -> None:
        self.held -= load
        self._own[caller.name] -= load
        if self._own[caller.name] == NOTHING:
            del self._own[caller.name]
        self._observe(self.held)
        self._wake()

    def _wake(self) -> None:
        while (waiting := self._waiting.take(lambda one: self._has_room(one.caller, one.load))) is not None:
            if not waiting.turn.done():
                self._hold(waiting.caller, waiting.load)
                waiting.turn.set_result(None)
