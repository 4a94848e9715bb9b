"""The embedded store as it grows: written, searched while its graph is built, and searched once it is.

    python benchmarks/edge_store.py [--points 100000] [--dim 512] [--writers 2] [--queries 1000] [--json]

Vectors are drawn from 200 clusters whose members differ in 16 directions of their own and a little in all, as
embeddings do; queries are drawn as the points are, and none of them is one. Searches run one after another, from the
first write to the end of the last build; recall is against exact search.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from roost.clusters import Placement
from roost_serving.edge.collection import CONFIG
from roost_serving.stores import Filter, Point
from roost_serving.stores.edge import Store
from roost_serving.stores.qdrant import UPSERT_POINTS

COLLECTION = "benchmark@1"
CLUSTERS = 200
DIRECTIONS = 16
LIMIT = 10
BLOCK = 10_000
PAUSE = 0.02
"""Seconds between two searches, so that they leave the cores to the writes and the build."""


@dataclass(frozen=True)
class Latency:
    """Of searches, in milliseconds."""

    searches: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Latency":
        """What a list of seconds comes to."""
        p50, p99, longest = (1e3 * float(np.quantile(seconds, share)) for share in (0.5, 0.99, 1.0))
        return cls(len(seconds), p50, p99, longest)


@dataclass(frozen=True)
class Figures:
    """What the store did."""

    points: int
    dim: int
    points_per_second: float
    build_seconds: float
    """From the last write to the end of the last build."""
    while_written: Latency
    while_built: Latency
    once_built: Latency
    recall: float
    megabytes: float
    """Of the engine's process, resident."""


class Vectors:
    """Points and queries drawn from the same clusters, in blocks that repeat."""

    def __init__(self, dim: int) -> None:
        rng = np.random.default_rng(0)
        self.dim = dim
        self._centres = rng.normal(size=(CLUSTERS, dim)).astype(np.float32)
        self._spread = rng.normal(size=(CLUSTERS, DIRECTIONS, dim)).astype(np.float32) / np.sqrt(DIRECTIONS)

    def block(self, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (count, dim), and the cluster of each."""
        rng = np.random.default_rng((1, seed))
        labels = rng.integers(CLUSTERS, size=count)
        rows = self._centres[labels] + np.float32(0.1) * rng.normal(size=(count, self.dim)).astype(np.float32)
        own = rng.normal(size=(count, DIRECTIONS)).astype(np.float32)
        for cluster in range(CLUSTERS):
            members = labels == cluster
            rows[members] += own[members] @ self._spread[cluster]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels

    def blocks(self, count: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """All points, as (number of the first, vectors, clusters)."""
        for first in range(0, count, BLOCK):
            yield first, *self.block(first, min(BLOCK, count - first))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The embedded store, written, built and searched.")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--writers", type=int, default=2, help="requests that are written at a time (default: 2)")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.points, arguments.dim, arguments.writers, arguments.queries))
    if arguments.json:
        print(json.dumps(asdict(figures), indent=2))
        return
    print(f"{figures.points:,} x {figures.dim}: {figures.points_per_second:,.0f} points/s, recall {figures.recall:.3f}")
    print(f"last build done {figures.build_seconds:.0f} s after the last write; {figures.megabytes:,.0f} MB resident")
    for name in ("while_written", "while_built", "once_built"):
        seen: Latency = getattr(figures, name)
        print(f"{name:>14}: p50 {seen.p50:.2f}, p99 {seen.p99:.2f}, longest {seen.longest:.1f} ms of {seen.searches:,}")


async def measure(count: int, dim: int, writers: int, queries: int) -> Figures:
    """Write everything, wait for the graph, and search."""
    vectors = Vectors(dim)
    asked, _ = vectors.block(-1 % 2**32, queries)
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(f"edge://{Path(scratch) / 'index'}")
        await store.open()
        try:
            await store.ensure(COLLECTION, dim=dim)
            written, built = asyncio.Event(), asyncio.Event()
            searcher = asyncio.create_task(_search_until(store, asked, written, built))
            seconds = await _write(store, vectors, count, writers)
            written.set()
            begun = time.perf_counter()
            await asyncio.to_thread(_wait_for_graph, store.folder)
            building = time.perf_counter() - begun
            built.set()
            while_written, while_built = await searcher
            times, found = [], []
            for query in asked:
                spent, ids = await _search(store, query)
                times.append(spent)
                found.append(ids)
            megabytes = _resident(store.pid)
        finally:
            await store.close()
    right = sum(len(ids & best) for ids, best in zip(found, _exact(vectors, count, asked), strict=True))
    return Figures(
        points=count,
        dim=dim,
        points_per_second=count / seconds,
        build_seconds=building,
        while_written=Latency.of(while_written),
        while_built=Latency.of(while_built),
        once_built=Latency.of(times),
        recall=right / (LIMIT * queries),
        megabytes=megabytes,
    )


async def _write(store: Store, vectors: Vectors, count: int, writers: int) -> float:
    """Seconds that the writes took, without those in which their vectors were drawn."""
    seconds = 0.0
    for first, rows, labels in vectors.blocks(count):
        points = [
            Point(f"item-{first + n}", {"n": first + n}, Placement(int(labels[n]), 0.5, -1.0, 1.0, False), row)
            for n, row in enumerate(rows)
        ]
        chunks = iter([points[start : start + UPSERT_POINTS] for start in range(0, len(points), UPSERT_POINTS)])

        begun = time.perf_counter()
        await asyncio.gather(*(_write_some(store, chunks) for _ in range(writers)))
        seconds += time.perf_counter() - begun
        print(f"\r{first + len(rows):,} of {count:,} points", end="", file=sys.stderr)
    print(file=sys.stderr)
    return seconds


async def _write_some(store: Store, chunks: Iterator[list[Point]]) -> None:
    for chunk in chunks:
        await store.upsert(COLLECTION, chunk)


async def _search_until(
    store: Store, queries: np.ndarray, written: asyncio.Event, built: asyncio.Event
) -> tuple[list[float], list[float]]:
    """How long searches took before everything was written, and between then and the graph's end."""
    before: list[float] = []
    after: list[float] = []
    number = 0
    while not built.is_set():
        times = after if written.is_set() else before
        times.append((await _search(store, queries[number % len(queries)]))[0])
        number += 1
        await asyncio.sleep(PAUSE)
    return before, after


async def _search(store: Store, query: np.ndarray) -> tuple[float, set[str]]:
    begun = time.perf_counter()
    hits = await store.search(COLLECTION, query, limit=LIMIT, filter=Filter())
    return time.perf_counter() - begun, {hit.point.id for hit in hits}


def _wait_for_graph(folder: Path) -> None:
    """Until no build has been under way for five seconds: it has a folder beside that of the shard in use."""
    (collection,) = (path.parent for path in folder.rglob(CONFIG))
    quiet = 0
    while quiet < 10:
        time.sleep(0.5)
        quiet = 0 if sum(path.name.isdecimal() for path in collection.iterdir()) > 1 else quiet + 1


def _exact(vectors: Vectors, count: int, queries: np.ndarray) -> list[set[str]]:
    """The ids of the nearest points of each query."""
    scores = np.full((len(queries), LIMIT), -np.inf, np.float32)
    ids = np.zeros((len(queries), LIMIT), np.int64)
    for first, rows, _ in vectors.blocks(count):
        all_scores = np.hstack([scores, queries @ rows.T])
        all_ids = np.hstack([ids, np.broadcast_to(np.arange(first, first + len(rows)), (len(queries), len(rows)))])
        best = np.argpartition(-all_scores, LIMIT - 1, axis=1)[:, :LIMIT]
        scores, ids = np.take_along_axis(all_scores, best, 1), np.take_along_axis(all_ids, best, 1)
    return [{f"item-{number}" for number in row} for row in ids]


def _resident(pid: int | None) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main()
