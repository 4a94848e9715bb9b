"""One shard of the engine, open in this process. Nothing here is asynchronous: the engine holds the GIL anyway."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import qdrant_edge
from qdrant_edge import EdgeShard, UpdateOperation

from roost_serving.edge.errors import Refused
from roost_serving.edge.values import PointId

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


class Shard:
    """An open shard.

    Args:
        folder: Of the shard; only one process may open it.

    Raises:
        Refused: RESOURCE_EXHAUSTED, where the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        require_space(folder, needed=OPENING_BYTES)
        self.folder = folder
        self.engine = EdgeShard.load(str(folder))
        self.unflushed_bytes = 0

    @classmethod
    def create(cls, folder: Path, *, dim: int) -> Self:
        """Make a shard of cosine vectors."""
        config = qdrant_edge.EdgeConfig(
            vectors=qdrant_edge.EdgeVectorParams(dim, qdrant_edge.Distance.Cosine),
            hnsw_config=qdrant_edge.HnswIndexConfig(EDGES, CANDIDATES, FULL_SCAN_KB),
            # It is `indexing` that decides when to build; then everything goes into the graph.
            optimizers=qdrant_edge.EdgeOptimizersConfig(indexing_threshold=1),
        )
        EdgeShard.create(str(folder), config).close()
        return cls(folder)

    def upsert(self, points: Sequence[qdrant_edge.Point], *, size: int) -> None:
        """Write points; in the log of the engine when this returns.

        Args:
            points: Replace those of the same ids.
            size: Of their messages, in bytes.

        Raises:
            Refused: RESOURCE_EXHAUSTED, where the disk is nearly full.
        """
        self._update(UpdateOperation.upsert_points(list(points)), size=size)

    def delete(self, point_ids: Sequence[PointId]) -> None:
        """Delete the points of these ids, where they exist."""
        self._update(UpdateOperation.delete_points(list(point_ids)), size=0)

    def index(self, field: str, kind: qdrant_edge.PayloadSchemaType) -> None:
        """Index a field of the payload; nothing happens where it is indexed already."""
        if field not in self.engine.info().payload_schema:
            self._update(UpdateOperation.create_field_index(field, kind), size=0)

    def _update(self, operation: UpdateOperation, *, size: int) -> None:
        self.check_space(size)
        self.engine.update(operation)
        self.unflushed_bytes += max(size, 1)

    def check_space(self, size: int) -> None:
        """Raise where the disk has no room for writes of so many bytes.

        Raises:
            Refused: RESOURCE_EXHAUSTED.
        """
        require_space(self.folder, needed=RESERVE_BYTES + size * GROWTH)

    def flush(self) -> None:
        """Write what the log holds into the segments, and shorten the log."""
        if self.unflushed_bytes:
            self.engine.flush()
            self.unflushed_bytes = 0

    def close(self) -> None:
        """Flush and let go of the folder."""
        self.flush()
        self.engine.close()


def require_space(folder: Path, *, needed: int) -> None:
    """Raise where a disk has too little free space.

    Raises:
        Refused: RESOURCE_EXHAUSTED.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Refused.no_space(free=free, needed=needed)
