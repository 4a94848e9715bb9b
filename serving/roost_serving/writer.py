"""Writes points to the store, several at once while an earlier write is under way."""

import asyncio
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from roost.errors import DeadlineExceeded
from roost_serving.stores import Point, Store
from roost_serving.stores._points import check_points

MOST = 256
WRITE_SECONDS = 30.0


class Observer(Protocol):
    """Is told how large writes are."""

    def stored(self, points: int) -> None:
        """One write held this many points."""
        ...


@dataclass
class Pending:
    """What waits for one collection's next write."""

    points: dict[asyncio.Future[None], Point] = field(default_factory=dict)
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
            BadVector: No store takes its vector.
            BadRequest: No store takes its payload.
        """
        check_points([point])  # alone: in a batch its error would be everyone's
        done = asyncio.get_running_loop().create_future()
        pending = self._pending.setdefault(collection, Pending())
        pending.points[done] = point
        if pending.task is None:
            pending.task = asyncio.create_task(self._drain(collection, pending))
        try:
            async with asyncio.timeout(timeout):
                await done
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed before the store had written the item.")
        finally:
            pending.points.pop(done, None)  # who went away must not leave the point in the queue of a slow store

    async def close(self) -> None:
        """Finish every write."""
        await asyncio.gather(*[pending.task for pending in self._pending.values() if pending.task])

    async def _drain(self, collection: str, pending: Pending) -> None:
        try:
            while pending.points:
                batch = dict(islice(pending.points.items(), MOST))
                for done in batch:
                    del pending.points[done]
                await self._write(collection, batch)
        finally:
            pending.task = None

    async def _write(self, collection: str, batch: dict[asyncio.Future[None], Point]) -> None:
        newest = {point.id: point for point in batch.values()}  # the last of two with one id wins, as it would alone
        write = asyncio.create_task(self._store.upsert(collection, list(newest.values()), timeout=WRITE_SECONDS))
        await asyncio.wait({write})
        error = write.exception()
        if error is None:
            self._observer.stored(len(newest))
        for done in batch:
            if done.done():
                continue  # its caller went away
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
