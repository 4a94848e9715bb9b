"""Writes points to the store, several at once while an earlier write is under way."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from roost.errors import DeadlineExceeded
from roost_serving.stores import Point, Store

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

    points: list[tuple[Point, asyncio.Future[None]]] = field(default_factory=list)
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
        """
        done = asyncio.get_running_loop().create_future()
        pending = self._pending.setdefault(collection, Pending())
        pending.points.append((point, done))
        if pending.task is None:
            pending.task = asyncio.create_task(self._drain(collection, pending))
        try:
            async with asyncio.timeout(timeout):
                await done
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed before the store had written the item.")

    async def close(self) -> None:
        """Finish every write."""
        await asyncio.gather(*[pending.task for pending in self._pending.values() if pending.task])

    async def _drain(self, collection: str, pending: Pending) -> None:
        try:
            while pending.points:
                batch, pending.points = pending.points[:MOST], pending.points[MOST:]
                await self._write(collection, batch)
        finally:
            pending.task = None

    async def _write(self, collection: str, batch: list[tuple[Point, asyncio.Future[None]]]) -> None:
        newest = {point.id: point for point, _ in batch}  # the last of two with one id wins, as it would alone
        write = asyncio.create_task(self._store.upsert(collection, list(newest.values()), timeout=WRITE_SECONDS))
        await asyncio.wait({write})
        error = write.exception()
        if error is None:
            self._observer.stored(len(newest))
        for _, done in batch:
            if done.done():
                continue  # its caller went away
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
