"""The HNSW graph that the engine's process builds beside its work, and what is left when it is killed while it does."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from roost.errors import StoreUnavailable
from roost_serving import stores
from roost_serving.edge.protocol import qdrant
from roost_serving.stores import Filter, Point
from roost_serving.stores.edge import Store

DIM = 16
N = 4_000
INDEX_BYTES = 3_000 * DIM * 4
"""Small, so that the graph of a few thousand points is built."""


@pytest.fixture
def rows() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(2 * N, DIM)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def points_of(rows, numbers) -> list[Point]:
    return [Point(f"item-{n}", {"n": n}, None, rows[n]) for n in numbers]


async def info_of(store) -> "qdrant.CollectionInfo":
    request = qdrant.GetCollectionInfoRequest(collection_name="digits@1")
    return (await store._connected.collections.Get(request)).result


async def indexed(store) -> int:
    return (await info_of(store)).indexed_vectors_count


def children_of(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


async def until_indexed(store) -> None:
    give_up = time.monotonic() + 120
    while not await indexed(store):
        assert time.monotonic() < give_up, "no graph was built"
        await asyncio.sleep(0.05)


async def everything(store) -> dict[int, np.ndarray]:
    found, start = {}, None
    while True:
        page = await store.scroll("digits@1", limit=1000, start=start, with_vectors=True)
        found |= {point.payload["n"]: point.vector for point in page.points}
        start = page.next_key
        if start is None:
            return found


def check(found: dict[int, np.ndarray], rows: np.ndarray, expected: set[int]) -> None:
    assert found.keys() == expected
    for number, vector in found.items():
        np.testing.assert_allclose(vector, rows[number], atol=1e-6)


@asynccontextmanager
async def filled(engine_at, folder: Path, rows) -> AsyncIterator[stores.Store]:
    """A store with N points, enough for a graph."""
    async with engine_at(folder, index_bytes=INDEX_BYTES) as (url, _):
        store = stores.connect(url)
        await store.open()
        await store.ensure("digits@1", dim=DIM)
        await store.upsert("digits@1", points_of(rows, range(N)))
        yield store
        await store.close()


async def test_a_graph_is_built_while_points_come_and_go_and_searches_are_answered(engine_at, tmp_path, rows):
    folder = tmp_path / "index"
    async with filled(engine_at, folder, rows) as store:
        building = asyncio.create_task(until_indexed(store))
        expected, following = set(range(N)), N
        while not building.done():
            await store.upsert("digits@1", points_of(rows, [following]))
            await store.delete("digits@1", f"item-{following - N}")
            expected = expected - {following - N} | {following}
            [hit] = await store.search("digits@1", rows[following], limit=1)
            assert hit.point.payload == {"n": following}
            following = min(following + 1, 2 * N - 1)
        await building
        check(await everything(store), rows, expected)
        assert await recall(store, rows, expected) >= 0.95
        assert await store.count_clusters("digits@1") == {}
    collection = folder / "collections" / "digits@1"
    assert shard_of(collection) == 2
    async with engine_at(folder, index_bytes=INDEX_BYTES) as (url, _):
        store = stores.connect(url)
        await store.open()
        check(await everything(store), rows, expected)
        await store.close()
    assert sorted(path.name for path in collection.iterdir()) == ["2", "collection.json"]


async def test_a_payload_index_that_is_made_while_a_graph_is_built_stays(engine_at, tmp_path, rows):
    folder = tmp_path / "index"
    async with filled(engine_at, folder, rows) as store:
        await until_building(folder / "collections" / "digits@1", shard=1)
        request = qdrant.CreateFieldIndexCollection(
            collection_name="digits@1", field_name="payload.n", field_type=qdrant.FieldTypeInteger
        )
        await store._connected.points.CreateFieldIndex(request)
        assert not await indexed(store)
        await until_indexed(store)
        schema = (await info_of(store)).payload_schema
        assert {field: index.data_type for field, index in schema.items()} == {
            "payload.n": qdrant.PayloadSchemaType.Integer,
            "cluster": qdrant.PayloadSchemaType.Integer,
            "anomaly": qdrant.PayloadSchemaType.Bool,
        }


@pytest.fixture
async def with_graph(engine_at, tmp_path, rows) -> Path:
    """A folder whose collection has a graph over N points."""
    folder = tmp_path / "index"
    async with filled(engine_at, folder, rows) as store:
        await until_indexed(store)
    return folder


@pytest.mark.parametrize("killed", ["the engine's process", "the graph's"])
async def test_a_graph_lives_in_a_process_of_its_own_and_starts_again_with_the_engines(with_graph, rows, killed):
    store = Store(f"edge://{with_graph}")
    await store.open()
    assert await indexed(store) == N
    await store.upsert("digits@1", points_of(rows, [N]))
    engine, (graph,) = store.pid, children_of(store.pid)
    os.kill(graph if killed == "the graph's" else engine, signal.SIGKILL)
    give_up = time.monotonic() + 60
    while store.pid in (engine, None) or not children_of(store.pid):
        assert time.monotonic() < give_up, "the engine's process was not started again"
        await asyncio.sleep(0.02)
    assert children_of(store.pid) != [graph]
    while True:
        try:
            check(await everything(store), rows, set(range(N + 1)))
            break
        except StoreUnavailable:
            assert time.monotonic() < give_up, "the graph was not served again"
            await asyncio.sleep(0.02)
    assert await indexed(store) >= N
    (graph,) = children_of(store.pid)
    await store.close()
    with pytest.raises(ProcessLookupError):
        os.kill(graph, 0)


async def test_a_graph_whose_process_cannot_start_says_why(with_graph):
    segment = next((with_graph / "collections" / "digits@1" / "2" / "segments").iterdir())
    (segment / "segment.json").write_text("not json")
    store = Store(f"edge://{with_graph}")
    with pytest.raises(StoreUnavailable, match="Its words are in the log"):
        await store.open()


async def recall(store, rows, numbers) -> float:
    order = np.array(sorted(numbers))
    found = 0
    for query in np.random.default_rng(5).normal(size=(50, DIM)).astype(np.float32):
        nearest = set(order[np.argsort(-(rows[order] @ query))[:10]].tolist())
        hits = await store.search("digits@1", query, limit=10, filter=Filter())
        found += len(nearest & {hit.point.payload["n"] for hit in hits})
    return found / 500


def shard_of(collection: Path) -> int:
    return json.loads((collection / "collection.json").read_text())["shard"]


async def until_building(collection: Path, shard: int) -> None:
    give_up = time.monotonic() + 60
    while not (collection / str(shard + 1)).exists() and shard_of(collection) == shard:
        assert time.monotonic() < give_up, "no build began"
        await asyncio.sleep(0.005)


async def test_a_kill_at_any_point_of_a_build_loses_nothing(engine_at, tmp_path, rows):
    folder = tmp_path / "index"
    collection = folder / "collections" / "digits@1"
    acknowledged: set[int] = set()
    kills = 0
    for seconds_into_the_build in (0.0, 0.2, 0.6, 60.0):
        async with engine_at(folder, index_bytes=INDEX_BYTES) as (url, process):
            store = stores.connect(url)
            await store.open()
            await store.ensure("digits@1", dim=DIM)
            check(await everything(store), rows, acknowledged)
            fresh = range(len(acknowledged), len(acknowledged) + (50 if acknowledged else N))
            await store.upsert("digits@1", points_of(rows, fresh))
            acknowledged |= set(fresh)
            await until_building(collection, shard=1)
            give_up = time.monotonic() + seconds_into_the_build
            while time.monotonic() < give_up and shard_of(collection) == 1:
                await store.upsert("digits@1", points_of(rows, [len(acknowledged)]))
                acknowledged.add(len(acknowledged))
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            await store.close()
        kills += 1
        if shard_of(collection) == 2:  # killed in the moment of the swap, while the old shard is being removed
            break
    assert kills >= 2
    async with engine_at(folder, index_bytes=INDEX_BYTES) as (url, _):
        store = stores.connect(url)
        await store.open()
        check(await everything(store), rows, acknowledged)
        assert await indexed(store) >= N
        await store.close()
