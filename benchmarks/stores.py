"""Points written a second, and how long a search takes, in every store on the same vectors.

    python benchmarks/stores.py [--points 20000] [--dim 128] [--queries 300] [--batch 256] [--qdrant URL] [--json]

Vectors are drawn from 200 clusters with noise, as embeddings are. Each store takes all points in batches, one after
another, as an ingest does; then queries run one at a time, without a filter, with one on the cluster (indexed), and
with one on the payload (not indexed). Recall is against brute force in numpy.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from roost.clusters import Placement
from roost_serving import stores
from roost_serving.stores import Condition, Filter, Point

CLUSTERS = 200
LIMIT = 10
COLLECTION = "benchmark@1"


@dataclass(frozen=True)
class Figures:
    """What one store did; times in milliseconds."""

    store: str
    points: int
    dim: int
    upserts_per_second: float
    p50: float
    p99: float
    cluster_p50: float
    payload_p50: float
    recall: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Writes and searches of every store.")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--qdrant", metavar="URL", help="measure this server too, as qdrant://host:6334")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = asyncio.run(measure_all(arguments))
    if arguments.json:
        json.dump([asdict(row) for row in figures], sys.stdout, indent=2)
        print()
        return
    print(f"{arguments.points:,} points of {arguments.dim} values; {arguments.queries} queries for the nearest {LIMIT}")
    columns = ["store", "points/s", "p50 ms", "p99 ms", "by cluster", "by payload", "recall"]
    print("".join(f"{column:>12}" for column in columns))
    for row in figures:
        times = [row.p50, row.p99, row.cluster_p50, row.payload_p50]
        print(f"{row.store:>12}{row.upserts_per_second:>12,.0f}" + "".join(f"{t:>12.2f}" for t in times), end="")
        print(f"{row.recall:>12.3f}")


async def measure_all(arguments: argparse.Namespace) -> list[Figures]:
    """One row for each store."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, arguments.dim))
    labels = rng.integers(CLUSTERS, size=arguments.points)
    rows = (centres[labels] + 0.5 * rng.normal(size=(arguments.points, arguments.dim))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        urls = ["memory://", f"edge://{Path(folder) / 'index'}", *([arguments.qdrant] if arguments.qdrant else [])]
        return [await measure(url, rows, labels, arguments) for url in urls]


async def measure(url: str, rows: np.ndarray, labels: np.ndarray, arguments: argparse.Namespace) -> Figures:
    """Write everything into one store, and search it."""
    store = stores.connect(url)
    await store.open()
    await store.ensure(COLLECTION, dim=rows.shape[1])
    points = [
        Point(f"item-{n}", {"n": n, "even": n % 2 == 0}, Placement(int(labels[n]), 0.5, -1.0, 1.0, False), row)
        for n, row in enumerate(rows)
    ]
    started = time.perf_counter()
    for first in range(0, len(points), arguments.batch):
        await store.upsert(COLLECTION, points[first : first + arguments.batch])
    seconds = time.perf_counter() - started
    queries = rows[np.random.default_rng(1).integers(len(rows), size=arguments.queries)]
    even = Filter(payload=[Condition("even", True)])
    plain, found = await search(store, queries, [Filter()] * len(queries))
    by_cluster, _ = await search(store, queries, [Filter(clusters=[n % CLUSTERS]) for n in range(len(queries))])
    by_payload, _ = await search(store, queries, [even] * len(queries))
    nearest = np.argsort(-(queries @ rows.T), axis=1)[:, :LIMIT]
    hits = sum(len(set(ids) & {f"item-{n}" for n in near}) for ids, near in zip(found, nearest, strict=True))
    await store.close()
    return Figures(
        store=url.partition(":")[0],
        points=len(rows),
        dim=rows.shape[1],
        upserts_per_second=len(points) / seconds,
        p50=1e3 * statistics.median(plain),
        p99=1e3 * float(np.quantile(plain, 0.99)),
        cluster_p50=1e3 * statistics.median(by_cluster),
        payload_p50=1e3 * statistics.median(by_payload),
        recall=hits / (LIMIT * len(queries)),
    )


async def search(
    store: stores.Store, queries: np.ndarray, filters: list[Filter]
) -> tuple[list[float], list[list[str]]]:
    """How long each query took, in seconds, and the ids that it found."""
    seconds, found = [], []
    for query, condition in zip(queries, filters, strict=True):
        started = time.perf_counter()
        hits = await store.search(COLLECTION, query, limit=LIMIT, filter=condition)
        seconds.append(time.perf_counter() - started)
        found.append([hit.point.id for hit in hits])
    return seconds, found


if __name__ == "__main__":
    main()
