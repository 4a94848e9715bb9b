"""One collection on disk: a folder with `collection.json` and the folder of the engine's shard that it names."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import qdrant_edge
from qdrant_edge import EdgeShard, UpdateOperation

from roost.artifact import replace_bytes
from roost_serving.edge.errors import Refused
from roost_serving.edge.values import PointId

CONFIG = "collection.json"
UNFINISHED = ".{}.new"
"""The name of a collection's folder while it is made."""
RESERVE_BYTES = 64 << 20
"""Writes are refused below this much free space: the engine maps sparse files, and is killed where one cannot grow."""
OPENING_BYTES = 8 << 20
"""What opening a shard may write, at most; far below the reserve, so that a full disk can still be searched."""
GROWTH = 4
"""Bytes on disk for a byte of an update: once in the log, once in the segment, and the same again while it flushes."""
EDGES = 16
CANDIDATES = 100
FULL_SCAN_KB = 10_000
"""Qdrant's own choices for a graph: edges a node, candidates while building, what is scanned instead of searched."""


@dataclass
class Description:
    """What `collection.json` holds."""

    dim: int
    shard: int = 1
    """The number of the shard's folder; any other number there is left over and not used."""


class Collection:
    """An open collection. Nothing here is asynchronous: the engine holds the GIL anyway.

    Args:
        folder: Of the collection; only one process may open it.
        description: As read from it.
        shard: The engine's, open.
    """

    def __init__(self, folder: Path, description: Description, shard: EdgeShard) -> None:
        self.folder = folder
        self.description = description
        self.shard = shard
        self.unflushed_bytes = 0
        self.writable = asyncio.Event()
        """Set but while a copy is made; wait for it before a write."""
        self.writable.set()
        self.changed: set[PointId] | None = None
        """Ids written since that copy; None while there is none to bring up to date."""

    @property
    def shard_folder(self) -> Path:
        """Where the shard in use lies."""
        return self.folder / str(self.description.shard)

    @classmethod
    def create(cls, folder: Path, *, dim: int) -> Self:
        """Make a collection of cosine vectors; it appears whole or not at all."""
        _check_space(folder.parent, needed=RESERVE_BYTES)
        beside = folder.with_name(UNFINISHED.format(folder.name))
        shutil.rmtree(beside, ignore_errors=True)
        description = Description(dim)
        config = qdrant_edge.EdgeConfig(
            vectors=qdrant_edge.EdgeVectorParams(dim, qdrant_edge.Distance.Cosine),
            hnsw_config=qdrant_edge.HnswIndexConfig(EDGES, CANDIDATES, FULL_SCAN_KB),
            # It is `indexing` that decides when to build; then everything goes into the graph.
            optimizers=qdrant_edge.EdgeOptimizersConfig(indexing_threshold=1),
        )
        beside.mkdir()
        EdgeShard.create(str(beside / str(description.shard)), config).close()
        _write(beside, description)
        beside.rename(folder)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a collection, and remove what a killed process left beside its shard."""
        _check_space(folder, needed=OPENING_BYTES)
        description = Description(**json.loads((folder / CONFIG).read_bytes()))
        collection = cls(folder, description, EdgeShard.load(str(folder / str(description.shard))))
        collection.remove_left_over()
        return collection

    def remove_left_over(self) -> None:
        """Remove every shard's folder but the one in use; a folder whose name is no number is none of them."""
        for path in self.folder.iterdir():
            if path.name.isdecimal() and path.is_dir() and path != self.shard_folder:
                shutil.rmtree(path)

    def upsert(self, points: Sequence[qdrant_edge.Point], *, size: int) -> None:
        """Write points; in the log of the engine when this returns.

        Args:
            points: Replace those of the same ids.
            size: Of the request, in bytes.

        Raises:
            Refused: RESOURCE_EXHAUSTED, where the disk is nearly full.
        """
        self._update(UpdateOperation.upsert_points(list(points)), size=size)
        if self.changed is not None:
            self.changed.update(point.id for point in points)

    def delete(self, point_ids: Sequence[PointId]) -> None:
        """Delete the points of these ids, where they exist."""
        self._update(UpdateOperation.delete_points(list(point_ids)), size=0)
        if self.changed is not None:
            self.changed.update(point_ids)

    def index(self, field: str, kind: qdrant_edge.PayloadSchemaType) -> None:
        """Index a field of the payload; nothing happens where it is indexed already."""
        if field not in self.shard.info().payload_schema:
            self._update(UpdateOperation.create_field_index(field, kind), size=0)

    def _update(self, operation: UpdateOperation, *, size: int) -> None:
        _check_space(self.folder, needed=RESERVE_BYTES + size * GROWTH)
        self.shard.update(operation)
        self.unflushed_bytes += max(size, 1)

    def take_changed(self, limit: int) -> list[PointId]:
        """Take out some of the ids that were written since the copy was made."""
        changed = self.changed or set()
        return [changed.pop() for _ in range(min(limit, len(changed)))]

    def open_beside(self, folder: Path) -> EdgeShard:
        """Open a copy of the shard, with the payload indexes that the shard has by now."""
        fresh = EdgeShard.load(str(folder))
        for field, index in self.shard.info().payload_schema.items():
            if field not in fresh.info().payload_schema:
                fresh.update(UpdateOperation.create_field_index(field, index.data_type))
        return fresh

    def replay(self, fresh: EdgeShard, point_ids: Sequence[PointId]) -> None:
        """Make points in a copy what they are here: written, or gone."""
        records = self.shard.retrieve(list(point_ids), True, True)
        points = [qdrant_edge.Point(record.id, record.vector or [], record.payload) for record in records]
        gone = {str(point_id) for point_id in point_ids} - {str(record.id) for record in records}
        fresh.update(UpdateOperation.upsert_points(points))
        fresh.update(UpdateOperation.delete_points([point_id for point_id in point_ids if str(point_id) in gone]))

    def swap(self, fresh: EdgeShard, number: int) -> None:
        """Serve another shard from now on; it holds all that this one does, which the caller closes."""
        fresh.flush()
        _write(self.folder, replace(self.description, shard=number))
        self.shard = fresh
        self.description = replace(self.description, shard=number)
        self.unflushed_bytes = 0

    def flush(self) -> None:
        """Write what the log holds into the segments, and shorten the log."""
        if self.unflushed_bytes:
            self.shard.flush()
            self.unflushed_bytes = 0

    def close(self) -> None:
        """Flush and let go of the folder."""
        self.flush()
        self.shard.close()


def is_unfinished(path: Path) -> bool:
    """Whether a path is what `Collection.create` leaves where it is killed."""
    before, after = UNFINISHED.split("{}")
    return path.name.startswith(before) and path.name.endswith(after) and path.is_dir() and not path.is_symlink()


def _write(folder: Path, description: Description) -> None:
    replace_bytes(folder / CONFIG, json.dumps(vars(description)).encode())


def _check_space(folder: Path, *, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Refused.no_space(free=free, needed=needed)
