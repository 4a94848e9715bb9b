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
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from roost.clusters import Placement
from roost_serving.edge.collection import CONFIG
from roost_serving.stores import Filter, Point
from roost_serving.stores.edge import Store
from roost_serving.stores.qdrant import UPSERT_POINTS
from roost_serving.stores.qdrant import Store as QdrantStore

COLLECTION = "benchmark@1"
CLUSTERS = 200
DIRECTIONS = 16
LIMIT = 10
BLOCK = 10_000


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
    """Of the engine's processes, resident."""


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

    def draw(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (count, dim), and the cluster of each."""
        blocks = [self.block(first, min(BLOCK, count - first)) for first in range(0, count, BLOCK)]
        return np.concatenate([rows for rows, _ in blocks]), np.concatenate([labels for _, labels in blocks])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The embedded store, written, built and searched.")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--writers", type=int, default=2, help="requests that are written at a time (default: 2)")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument(
        "--pause",
        type=float,
        default=0.1,
        metavar="SECONDS",
        help="between two searches, so that they leave the cores to the writes and the build (default: 0.1)",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    work = measure(arguments.points, arguments.dim, arguments.writers, arguments.queries, arguments.pause)
    figures = asyncio.run(work)
    if arguments.json:
        print(json.dumps(asdict(figures), indent=2))
        return
    print(f"{figures.points:,} x {figures.dim}: {figures.points_per_second:,.0f} points/s, recall {figures.recall:.3f}")
    print(f"last build done {figures.build_seconds:.0f} s after the last write; {figures.megabytes:,.0f} MB resident")
    for name in ("while_written", "while_built", "once_built"):
        seen: Latency = getattr(figures, name)
        print(f"{name:>14}: p50 {seen.p50:.2f}, p99 {seen.p99:.2f}, longest {seen.longest:.1f} ms of {seen.searches:,}")


async def measure(count: int, dim: int, writers: int, queries: int, pause: float) -> Figures:
    """Write everything, wait for the graph, and search."""
    vectors = Vectors(dim)
    asked, _ = vectors.block(-1 % 2**32, queries)
    rows, labels = vectors.draw(count)
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(f"edge://{Path(scratch) / 'index'}")
        await store.open()
        try:
            await store.ensure(COLLECTION, dim=dim)
            here, there = get_context("spawn").Pipe()
            searcher = get_context("spawn").Process(target=_search_beside, args=(store.target, asked, pause, there))
            searcher.start()
            there.close()
            seconds = await _write(store, rows, labels, writers)
            written = time.perf_counter()
            await asyncio.to_thread(_wait_for_graph, store.folder)
            building = time.perf_counter() - written
            here.send("enough")
            searches = await asyncio.to_thread(here.recv)
            while_written = [spent for begun, spent in searches if begun < written]
            while_built = [spent for begun, spent in searches if begun >= written]
            times, found = [], []
            for query in asked:
                spent, ids = await _search(store, query)
                times.append(spent)
                found.append(ids)
            megabytes = _resident(store.pid)
        finally:
            await store.close()
    right = sum(len(ids & best) for ids, best in zip(found, _exact(rows, asked), strict=True))
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


async def _write(store: Store, rows: np.ndarray, labels: np.ndarray, writers: int) -> float:
    """Seconds that the writes took."""
    firsts = iter(range(0, len(rows), UPSERT_POINTS))

    async def write() -> None:
        for first in firsts:
            points = [
                Point(f"item-{n}", {"n": n}, Placement(int(labels[n]), 0.5, -1.0, 1.0, False), rows[n])
                for n in range(first, min(first + UPSERT_POINTS, len(rows)))
            ]
            await store.upsert(COLLECTION, points)
            if first % BLOCK < UPSERT_POINTS:
                print(f"\r{first + len(points):,} of {len(rows):,} points", end="", file=sys.stderr)

    begun = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(writers)))
    print(file=sys.stderr)
    return time.perf_counter() - begun


class Searcher(QdrantStore):
    """The store as another process reaches it.

    Args:
        target: Where the engine's process listens.
    """

    def __init__(self, target: str) -> None:
        self._setup(place="The index", target=target, tls=False, api_key=None)


def _search_beside(target: str, queries: np.ndarray, pause: float, pipe: Connection) -> None:
    """Search until something comes through the pipe, and answer when each search began and how long it took.

    In a process of its own: the one that writes is busy making points, and would not notice an answer.
    """

    async def search() -> None:
        store = Searcher(target)
        await store.open()
        searches: list[tuple[float, float]] = []
        while not pipe.poll():
            begun = time.perf_counter()
            searches.append((begun, (await _search(store, queries[len(searches) % len(queries)]))[0]))
            await asyncio.sleep(pause)
        pipe.send(searches)
        await store.close()

    asyncio.run(search())


async def _search(store: QdrantStore, query: np.ndarray) -> tuple[float, set[str]]:
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


def _exact(rows: np.ndarray, queries: np.ndarray) -> list[set[str]]:
    """The ids of the nearest points of each query."""
    found = []
    for query in queries:
        found.append({f"item-{number}" for number in np.argpartition(-(rows @ query), LIMIT - 1)[:LIMIT]})
    return found


def _resident(pid: int | str | None) -> float:
    """MiB of a process and of those that it started."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
    children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return own + sum(_resident(child) for pids in children for child in pids)


if __name__ == "__main__":
    main()
