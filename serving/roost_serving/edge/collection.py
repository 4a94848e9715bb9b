"""One collection on disk: a folder with `collection.json` and the folder of the engine's shard that it names."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import qdrant_edge
from qdrant_edge import EdgeShard, UpdateOperation

from roost.artifact import replace_bytes
from roost_serving.edge.errors import Refused
from roost_serving.edge.values import PointId

CONFIG = "collection.json"
RESERVE_BYTES = 64 << 20
"""Writes are refused below this much free space: the engine maps sparse files, and is killed where one cannot grow."""
OPENING_BYTES = 8 << 20
"""What opening a shard may write, at most; far below the reserve, so that a full disk can still be searched."""
GROWTH = 4
"""Bytes on disk for a byte of an update: once in the log, once in the segment, and the same again while it flushes."""


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

    @classmethod
    def create(cls, folder: Path, *, dim: int) -> Self:
        """Make a collection of cosine vectors; it appears whole or not at all."""
        _check_space(folder.parent, needed=RESERVE_BYTES)
        beside = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        description = Description(dim)
        vectors = qdrant_edge.EdgeVectorParams(dim, qdrant_edge.Distance.Cosine)
        beside.mkdir()
        EdgeShard.create(str(beside / str(description.shard)), qdrant_edge.EdgeConfig(vectors=vectors)).close()
        _write(beside, description)
        beside.rename(folder)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a collection, and remove what a killed process left beside its shard."""
        _check_space(folder, needed=OPENING_BYTES)
        description = Description(**json.loads((folder / CONFIG).read_bytes()))
        for left_over in folder.iterdir():
            if left_over.is_dir() and left_over.name != str(description.shard):
                shutil.rmtree(left_over)
        return cls(folder, description, EdgeShard.load(str(folder / str(description.shard))))

    def upsert(self, points: Sequence[qdrant_edge.Point], *, size: int) -> None:
        """Write points; in the log of the engine when this returns.

        Args:
            points: Replace those of the same ids.
            size: Of the request, in bytes.

        Raises:
            Refused: RESOURCE_EXHAUSTED, where the disk is nearly full.
        """
        self._update(UpdateOperation.upsert_points(list(points)), size=size)

    def delete(self, point_ids: Sequence[PointId]) -> None:
        """Delete the points of these ids, where they exist."""
        self._update(UpdateOperation.delete_points(list(point_ids)), size=0)

    def index(self, field: str, kind: qdrant_edge.PayloadSchemaType) -> None:
        """Index a field of the payload; nothing happens where it is indexed already."""
        if field not in self.shard.info().payload_schema:
            self._update(UpdateOperation.create_field_index(field, kind), size=0)

    def _update(self, operation: UpdateOperation, *, size: int) -> None:
        _check_space(self.folder, needed=RESERVE_BYTES + size * GROWTH)
        self.shard.update(operation)
        self.unflushed_bytes += max(size, 1)

    def flush(self) -> None:
        """Write what the log holds into the segments, and shorten the log."""
        if self.unflushed_bytes:
            self.shard.flush()
            self.unflushed_bytes = 0

    def close(self) -> None:
        """Flush and let go of the folder."""
        self.flush()
        self.shard.close()


def _write(folder: Path, description: Description) -> None:
    replace_bytes(folder / CONFIG, json.dumps(vars(description)).encode())


def _check_space(folder: Path, *, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Refused.no_space(free=free, needed=needed)
