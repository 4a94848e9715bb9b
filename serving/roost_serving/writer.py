"""Writes points to the store, several at once while an earlier write is under way."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from roost.errors import DeadlineExceeded, StoreUnavailable
from roost_serving.deadline import Deadline
from roost_serving.stores import Point, Store
from roost_serving.stores._points import check_points, check_time

MOST = 256
WRITE_SECONDS = 30.0
"""The longest that a write may take, however patient its callers are."""
CLOSE_SECONDS = 2.0
"""What is written when the gateway ends may take so long: its calls have ended, so that hardly anybody waits."""


class Observer(Protocol):
    """Is told how large writes are."""

    def stored(self, points: int) -> None:
        """One write held this many points."""
        ...


@dataclass(slots=True, eq=False)
class Waiting:
    """A caller who waits for a point to be durable."""

    point: Point
    deadline: Deadline
    done: asyncio.Future[None]


@dataclass
class Pending:
    """What waits for one collection's next write."""

    waiting: dict[Waiting, None] = field(default_factory=dict)
    """In the order in which they came."""
    task: asyncio.Task[None] | None = None


class Writer:
    """Groups the points that arrive during a write into the next one: no timer, and no wait when idle."""

    def __init__(self, store: Store, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self._pending: dict[str, Pending] = {}

    async def write(self, collection: str, point: Point, *, timeout: float | None) -> None:
        """Return once the point is durable.

        Raises:
            DeadlineExceeded: The timeout passed first; the point may still be written.
            StoreUnavailable: The write was ended; the point may still be written.
            BadVector: No store takes its vector.
            BadRequest: No store takes its payload.
        """
        check_time(timeout)
        check_points([point])  # alone: in a batch its error would be everyone's
        waiting = Waiting(point, Deadline(timeout), asyncio.get_running_loop().create_future())
        pending = self._pending.setdefault(collection, Pending())
        pending.waiting[waiting] = None
        if pending.task is None:
            pending.task = asyncio.create_task(self._drain(collection, pending))
        try:
            async with asyncio.timeout(timeout):
                await waiting.done
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed before the store had written the item.")
        finally:
            pending.waiting.pop(waiting, None)  # who went away must not leave the point in the queue of a slow store

    async def close(self) -> None:
        """Finish the writes that the store takes now, and end the others."""
        tasks = [pending.task for pending in self._pending.values() if pending.task]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _drain(self, collection: str, pending: Pending) -> None:
        try:
            while pending.waiting:
                batch = list(islice(pending.waiting, MOST))
                for waiting in batch:
                    del pending.waiting[waiting]
                if batch := [waiting for waiting in batch if not waiting.done.done()]:  # some may be about to leave
                    await self._write(collection, batch)
        finally:
            pending.task = None
            for waiting in pending.waiting:  # none, unless this was cancelled
                _answer(waiting, _ended())

    async def _write(self, collection: str, batch: Sequence[Waiting]) -> None:
        """Write points for as long as someone waits for them, and tell who does."""
        newest = {waiting.point.id: waiting.point for waiting in batch}  # the last of two with one id wins, as alone
        write = asyncio.create_task(self._store.upsert(collection, list(newest.values()), timeout=_time(batch)))
        unheard = asyncio.gather(*(waiting.done for waiting in batch), return_exceptions=True)
        try:
            await asyncio.wait({write, unheard}, return_when=asyncio.FIRST_COMPLETED)
            write.cancel()  # nothing happens to one that has ended
            await asyncio.wait({write})
        finally:
            write.cancel()  # this may have been cancelled itself
            error = write.exception() if write.done() and not write.cancelled() else _ended()
            for waiting in batch:
                _answer(waiting, error)
        if error is None:
            self._observer.stored(len(newest))


def _time(batch: Sequence[Waiting]) -> float:
    """Seconds that a write may take: until its most patient caller leaves."""
    left = [waiting.deadline.left for waiting in batch]
    return min(WRITE_SECONDS, max(WRITE_SECONDS if seconds is None else seconds for seconds in left))


def _ended() -> StoreUnavailable:
    return StoreUnavailable("The write was ended before the store had answered. Send the item again.")


def _answer(waiting: Waiting, error: BaseException | None) -> None:
    if waiting.done.done():
        return  # its caller went away
    if error is None:
        waiting.done.set_result(None)
    else:
        waiting.done.set_exception(error)
