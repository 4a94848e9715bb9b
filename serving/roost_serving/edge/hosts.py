"""Where a collection's shard is served: in this process, or in one of its own, once it has grown."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, Self

import grpc.aio

from roost_serving.edge import process as processes
from roost_serving.edge.errors import Refused
from roost_serving.edge.points import ShardPoints, describe
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.serving import UNLIMITED
from roost_serving.edge.shard import Shard

SERVICE, FLUSH = "roost.Shard", "Flush"
"""What a shard's own process serves beside Qdrant's services."""

Before = Callable[[], Awaitable[None]]

_log = logging.getLogger(__name__)


class Host(Protocol):
    """A shard, and how to reach it."""

    async def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """Have a call of Qdrant's Points service answered, in so many seconds."""
        ...

    async def describe(self) -> "qdrant.CollectionInfo":
        """The shard's size and payload indexes."""
        ...

    async def flush(self) -> None:
        """Write what the log holds into the segments."""
        ...

    def take_up(self) -> None:
        """From now on callers depend on it."""
        ...

    async def close(self) -> None:
        """Answer what is under way, flush, and let go of the folder."""
        ...


class Here:
    """A shard in this process, whose every call holds up all others.

    Args:
        folder: Of the shard.
    """

    def __init__(self, folder: Path) -> None:
        self.shard = Shard(folder)
        self._points = ShardPoints(self.shard)

    async def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """Answer at once."""
        return await getattr(self._points, method)(request)

    async def describe(self) -> "qdrant.CollectionInfo":
        """As the engine says."""
        return describe(self.shard)

    async def flush(self) -> None:
        """At once."""
        self.shard.flush()

    def take_up(self) -> None:
        """Changes nothing."""

    async def close(self) -> None:
        """At once; nothing is under way."""
        self.shard.close()


class Apart:
    """A shard in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, lost: Callable[[], None]) -> None:
        self._process = process
        self._channel = grpc.aio.insecure_channel(address, UNLIMITED)
        self._points = qdrant.PointsStub(self._channel)
        self._collections = qdrant.CollectionsStub(self._channel)
        self._flush = self._channel.unary_unary(f"/{SERVICE}/{FLUSH}")
        self._lost = lost
        self._watch: asyncio.Task[None] | None = None
        self._calls: set[grpc.aio.Call] = set()

    @classmethod
    async def start(cls, folder: Path, before: Before, *, address: str, lock: int, lost: Callable[[], None]) -> Self:
        """Start a process for a shard, and wait until it answers.

        Args:
            folder: Of the shard.
            before: Awaited before it opens the folder.
            address: `unix:PATH` where it shall listen, or `HOST:0`.
            lock: A descriptor that locks all the folders, held by the process too while it lives.
            lost: Called once, if the process ends by itself after it was taken up.

        Raises:
            RoostError: It did not start.
        """
        arguments = [str(folder), "--listen", address]
        process, address = await processes.start(
            "roost_serving.edge.alone", arguments, place="The shard", pass_fds=[lock], before=before
        )
        return cls(process, address, lost)

    async def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """Have the process answer.

        Raises:
            Refused: UNAVAILABLE, where it is gone; else what it said.
        """
        return await self._reached(getattr(self._points, method)(request, timeout=timeout))

    async def describe(self) -> "qdrant.CollectionInfo":
        """As the engine in the process says."""
        return (await self._reached(self._collections.Get(qdrant.GetCollectionInfoRequest()))).result

    async def flush(self) -> None:
        """In the process."""
        await self._reached(self._flush(b""))

    async def _reached(self, call: Any) -> Any:
        self._calls.add(call)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # its words name the socket
                raise Refused(grpc.StatusCode.UNAVAILABLE, "The process of the collection is gone") from error
            raise Refused(error.code(), error.details() or "") from error
        finally:
            self._calls.discard(call)

    def take_up(self) -> None:
        """Tell of its loss from now on; before, only the calls to it fail."""
        self._watch = asyncio.create_task(self._tell())

    async def close(self) -> None:
        """Wait for the answers to all that was asked, and have the process flush and end."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        try:
            async with asyncio.timeout(processes.CLOSE_SECONDS):
                while self._calls:
                    await asyncio.gather(*(call.code() for call in self._calls))
                    await asyncio.sleep(0)
        except TimeoutError:
            _log.warning("the process of a shard left calls unanswered")
        finally:
            await processes.end(self._process)
            await self._channel.close()

    async def _tell(self) -> None:
        code = await self._process.wait()
        _log.error("The process of a shard died with %s", code)
        self._lost()
