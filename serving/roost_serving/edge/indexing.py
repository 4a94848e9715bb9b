"""Looks after collections that grow: moves their shards out of this process, and has HNSW graphs built for them."""

import asyncio
import contextlib
import logging
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from roost_serving.edge.catalogue import Catalogue
from roost_serving.edge.collection import Collection, nothing
from roost_serving.edge.errors import Lost
from roost_serving.edge.hosts import Here
from roost_serving.edge.shard import RESERVE_BYTES

INDEX_BYTES = 64 << 20
"""Bytes of vectors that are scanned exactly. On two cores 20,000 x 512 (40 MB) take 2 ms, and the graph 1 ms."""
GROWTH = 4
"""The graph is built again once a quarter as much as it holds has come in beside it."""
MOVE_OUT = 8
"""A shard with an eighth of that is served from a process of its own: a larger one would take longer to move there."""
LOOK_SECONDS = 0.5
REPLAY_POINTS = 64
REPLAY_PASSES = 8
"""Over what was written meanwhile, each shorter than the one before unless writes come as fast."""

_log = logging.getLogger(__name__)


class Indexer:
    """Looks after all collections, one build at a time.

    A build is a copy, a graph over it, a process that opens it, and a swap. Writes wait while the copy is made and in
    the moment of the swap; searches never wait. Ids written in between are noted, and their points copied over before
    the swap. The old shard holds everything until `collection.json` names the new one, so a kill at any point loses
    nothing.

    Args:
        catalogue: Open.
        index_bytes: Build a graph once this many bytes of vectors lie outside one.
    """

    def __init__(self, catalogue: Catalogue, *, index_bytes: int) -> None:
        self.catalogue = catalogue
        self.index_bytes = index_bytes
        self._failures: dict[Path, int] = {}
        self._building: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look at the collections twice a second, until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                for collection in list(self.catalogue.collections.values()):
                    await self._guard(collection, self._look_after(collection))
        finally:
            if self._building is not None:
                self._building.cancel()
                await asyncio.wait([self._building])

    async def _guard(self, collection: Collection, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Lost:
            raise
        except Exception as error:  # the engine's errors are bare Exceptions, and the other collections go on
            self._note_failure(collection, str(error))

    async def _look_after(self, collection: Collection) -> None:
        info = await collection.describe()
        value_bytes = collection.description.dim * 4
        indexed = info.indexed_vectors_count * value_bytes
        beside = info.points_count * value_bytes - indexed
        failures = self._failures.get(collection.folder, 0)  # each doubles what it takes to try again
        if isinstance(collection.host, Here):
            if beside >= self.index_bytes // MOVE_OUT << failures:
                await collection.move_out(self.catalogue.start)
                self._failures.pop(collection.folder, None)
            return
        idle = self._building is None or self._building.done()
        if idle and beside >= max(self.index_bytes, indexed // GROWTH) << failures:
            self._building = asyncio.create_task(self._guard(collection, self._build(collection)))

    async def _build(self, collection: Collection) -> None:
        target = collection.folder / str(collection.description.shard + 1)
        used = _used_bytes(collection.shard_folder)
        if shutil.disk_usage(collection.folder).free < RESERVE_BYTES + 3 * used:
            self._note_failure(collection, "there is too little space on the disk")
            return
        process: Process | None = None
        try:
            await collection.hold()
            await collection.host.flush()
            collection.changed = set()
            command = [
                sys.executable,
                "-P",
                "-m",
                "roost_serving.edge.build",
                str(collection.shard_folder),
                str(target),
            ]
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE)
            assert process.stdout is not None
            copied = await process.stdout.readline()
            collection.release()
            if await process.wait() == 0 and copied:
                await self._swap(collection, target)
            else:
                self._note_failure(collection, f"its process ended with {process.returncode}")
        finally:
            collection.changed = None
            collection.release()
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
            await asyncio.to_thread(collection.remove_left_over)

    async def _swap(self, collection: Collection, target: Path) -> None:
        """Serve the copy with its graph, in a process that opens it while the shard before is searched."""
        fresh = unused = await self.catalogue.start(target, nothing)
        try:
            await collection.index_as_here(fresh)
            await collection.warm(fresh)
            for _ in range(REPLAY_PASSES):
                await collection.bring_up_to_date(fresh, step=REPLAY_POINTS)
                await fresh.flush()  # so that little is left to do while writes wait
            await collection.hold()
            while collection.changed:
                await collection.bring_up_to_date(fresh, step=REPLAY_POINTS)
            await collection.index_as_here(fresh)  # if one more has come since: nothing, as a rule
            await fresh.flush()
            unused = collection.swap(fresh, int(target.name))
        finally:
            collection.release()
            await unused.close()
        self._failures.pop(collection.folder, None)
        _log.info("%s has an HNSW graph of %d points", collection.folder.name, (await fresh.describe()).points_count)

    def _note_failure(self, collection: Collection, reason: str) -> None:
        self._failures[collection.folder] = self._failures.get(collection.folder, 0) + 1
        _log.warning("%s stays as it is: %s", collection.folder.name, reason)


def _used_bytes(folder: Path) -> int:
    """What a folder takes on the disk, while another process writes to it."""
    used = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            used += path.stat().st_blocks * 512
    return used
