"""Builds HNSW graphs for collections that have outgrown exact scans, in another process, while this one serves them."""

import asyncio
import logging
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from itertools import count
from pathlib import Path

from roost_serving.edge.catalogue import Catalogue
from roost_serving.edge.collection import RESERVE_BYTES, Collection

INDEX_BYTES = 64 << 20
"""Bytes of vectors that are scanned exactly. On two cores 20,000 x 512 (40 MB) take 2 ms, and the graph 1 ms."""
GROWTH = 4
"""The graph is built again once a quarter as much as it holds has come in beside it."""
LOOK_SECONDS = 1.0
REPLAY_POINTS = 32
REPLAY_PASSES = 3
FLUSH_POINTS = 2048
BREATH_SECONDS = 0.001
"""Between two steps that hold up all calls; those that wait are answered in it."""

_log = logging.getLogger(__name__)


class Indexer:
    """Looks after all collections, one build at a time.

    A build is a copy, a graph over it, and a swap. Writes wait while the copy is made and in the moment of the swap;
    searches never wait. Ids written in between are noted, and their points copied over before the swap. The old shard
    holds everything until `collection.json` names the new one, so a kill at any point loses nothing.

    Args:
        catalogue: Open.
        index_bytes: Build a graph once this many bytes of vectors lie outside one.
    """

    def __init__(self, catalogue: Catalogue, *, index_bytes: int) -> None:
        self.catalogue = catalogue
        self.index_bytes = index_bytes
        self._failures: dict[Path, int] = {}

    async def run(self) -> None:
        """Look at the collections every second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for collection in list(self.catalogue.collections.values()):
                try:
                    if self._is_due(collection):
                        await self._build(collection)
                except Exception as error:  # the engine's errors are bare Exceptions, and the other collections go on
                    self._note_failure(collection, str(error))

    def _is_due(self, collection: Collection) -> bool:
        info = collection.shard.info()
        indexed = info.indexed_vectors_count * collection.description.dim * 4
        beside = info.points_count * collection.description.dim * 4 - indexed
        # Each failure doubles what it takes to try again.
        return beside >= max(self.index_bytes, indexed // GROWTH) << self._failures.get(collection.folder, 0)

    async def _build(self, collection: Collection) -> None:
        target = collection.folder / str(collection.description.shard + 1)
        used = sum(path.stat().st_blocks * 512 for path in collection.shard_folder.rglob("*"))
        if shutil.disk_usage(collection.folder).free < RESERVE_BYTES + 3 * used:
            self._note_failure(collection, "there is too little space on the disk")
            return
        process: Process | None = None
        try:
            collection.writable.clear()
            collection.flush()
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
            collection.writable.set()
            if await process.wait() == 0 and copied:
                await self._swap(collection, target)
            else:
                self._note_failure(collection, f"its process ended with {process.returncode}")
        finally:
            collection.changed = None
            collection.writable.set()
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
            await asyncio.to_thread(collection.remove_left_over)

    async def _swap(self, collection: Collection, target: Path) -> None:
        """Serve the copy with its graph. Each step holds up all calls; between them, those that waited go on."""
        fresh, unused = collection.open_beside(target), collection.shard
        try:
            for _ in range(REPLAY_PASSES):
                await asyncio.sleep(BREATH_SECONDS)
                for number in count(1):
                    if not (ids := collection.take_changed(REPLAY_POINTS)):
                        break
                    collection.replay(fresh, ids)
                    if number % (FLUSH_POINTS // REPLAY_POINTS) == 0:
                        fresh.flush()  # so that little is left to the last one
                    await asyncio.sleep(BREATH_SECONDS)
            await asyncio.sleep(BREATH_SECONDS)
            # No await from here to the swap: nothing can be written after the last replay.
            while ids := collection.take_changed(REPLAY_POINTS):
                collection.replay(fresh, ids)
            collection.swap(fresh, int(target.name))
            await asyncio.sleep(BREATH_SECONDS)
        finally:
            (fresh if collection.shard is unused else unused).close()
        self._failures.pop(collection.folder, None)
        _log.info("%s has an HNSW graph of %d points", collection.folder.name, collection.shard.info().points_count)

    def _note_failure(self, collection: Collection, reason: str) -> None:
        self._failures[collection.folder] = self._failures.get(collection.folder, 0) + 1
        _log.warning("%s stays without a new HNSW graph: %s", collection.folder.name, reason)
