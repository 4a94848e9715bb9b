"""A shard that grows: out of the engine's process, and from a process to the next that has its graph."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from roost_serving.edge import collection as collections
from roost_serving.edge.catalogue import Catalogue
from roost_serving.edge.collection import Collection
from roost_serving.edge.errors import Refused
from roost_serving.edge.hosts import Apart, Before, Here
from roost_serving.edge.indexing import Indexer
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.values import known_ids, to_dense, to_id

DIM = 16
N = 300
INDEX_BYTES = 100 * DIM * 4


def rows_of(numbers) -> np.ndarray:
    rows = np.stack([np.random.default_rng(n).normal(size=DIM) for n in numbers]).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def upsert_of(numbers, rows=None) -> "qdrant.UpsertPoints":
    rows = rows_of(numbers) if rows is None else rows
    return qdrant.UpsertPoints(
        points=[
            qdrant.PointStruct(id=to_id(n), vectors=qdrant.Vectors(vector=qdrant.Vector(dense=to_dense(row))))
            for n, row in zip(numbers, rows, strict=True)
        ]
    )


def delete_of(numbers) -> "qdrant.DeletePoints":
    return qdrant.DeletePoints(points=qdrant.PointsSelector(points=qdrant.PointsIdsList(ids=map(to_id, numbers))))


def query_of(number: int) -> "qdrant.QueryPoints":
    nearest = qdrant.VectorInput(dense=to_dense(rows_of([number])[0]))
    return qdrant.QueryPoints(query=qdrant.Query(nearest=nearest), limit=1)


async def nearest(collection: Collection, number: int) -> int:
    [hit] = (await collection.read("Query", query_of(number), timeout=30)).result
    return hit.id.num


async def count(collection: Collection) -> int:
    return (await collection.read("Count", qdrant.CountPoints(), timeout=30)).result.count


async def until(happened: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < give_up, "it did not happen"
        await asyncio.sleep(0.01)


@pytest.fixture
async def catalogue(tmp_path):
    """A folder with the collection `digits@1`, open in this process; `lost` counts the processes that it lost."""

    class Watched(Catalogue):
        lost = 0

    def lose() -> None:
        catalogue.lost += 1

    async def start(shard: Path, before: Before) -> Apart:
        return await Apart.start(shard, before, address="127.0.0.1:0", lock=catalogue.lock, lost=lose)

    catalogue = Watched(tmp_path / "index", start=start)
    catalogue.create("digits@1", dim=DIM)
    yield catalogue
    await catalogue.close()


@pytest.fixture
async def collection(catalogue) -> Collection:
    """With N points, in this process."""
    collection = catalogue.find("digits@1")
    await collection.write("Upsert", upsert_of(range(N)))
    return collection


@pytest.fixture
async def look_after(catalogue):
    """Begins to look after the collection."""
    tasks = []

    def begin() -> None:
        tasks.append(asyncio.create_task(Indexer(catalogue, index_bytes=INDEX_BYTES).run()))

    yield begin
    for task in tasks:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_calls_of_many_are_answered_while_a_shard_moves_and_is_swapped(collection, look_after):
    look_after()
    done = asyncio.Event()
    answered = 0

    async def search(seed: int) -> None:
        nonlocal answered
        chance = np.random.default_rng(seed)
        while not done.is_set():
            number = int(chance.integers(N))
            assert await nearest(collection, number) == number
            answered += 1
            await asyncio.sleep(0.001)  # in this process an answer comes without a wait

    searching = [asyncio.create_task(search(seed)) for seed in range(12)]
    await until(lambda: collection.description.shard == 2 or any(task.done() for task in searching))
    await until(lambda: not (collection.folder / "1").exists())
    done.set()
    await asyncio.gather(*searching)
    assert answered > 100
    assert isinstance(collection.host, Apart)
    assert (await collection.describe()).indexed_vectors_count == N


async def test_a_collection_that_cannot_be_looked_at_leaves_the_others_their_graphs(
    catalogue, collection, look_after, caplog
):
    catalogue.create("broken@1", dim=DIM)
    broken = catalogue.find("broken@1")
    broken.host.shard.close()
    catalogue.collections = {"broken@1": broken, "digits@1": collection}  # it comes first
    look_after()
    await until(lambda: collection.description.shard == 2)
    assert (await collection.describe()).indexed_vectors_count == N
    assert "broken@1 stays as it is" in caplog.text
    del catalogue.collections["broken@1"]


async def test_a_swap_that_cannot_be_written_down_leaves_the_shard_in_use(collection, look_after, monkeypatch, caplog):
    def full(*arguments) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(collections, "replace_bytes", full)
        look_after()
        await until(lambda: "stays as it is: No space left" in caplog.text)
        await until(lambda: not (collection.folder / "2").exists())
        assert (await nearest(collection, 7), await count(collection)) == (7, N)
    await until(lambda: collection.description.shard == 2)
    assert (await nearest(collection, 7), await count(collection)) == (7, N)


async def test_a_new_process_that_dies_before_the_swap_takes_nothing_with_it(
    catalogue, collection, look_after, monkeypatch, caplog
):
    async def die(self, fresh) -> None:
        os.kill(fresh._process.pid, signal.SIGKILL)
        await fresh.describe()

    monkeypatch.setattr(Collection, "warm", die)
    look_after()
    await until(lambda: "stays as it is: The process of the collection is gone" in caplog.text)
    assert (await nearest(collection, 7), await count(collection)) == (7, N)
    assert not catalogue.lost
    os.kill(collection.host._process.pid, signal.SIGKILL)
    await until(lambda: catalogue.lost == 1)


async def test_a_shard_that_cannot_move_stays_here(catalogue, collection, monkeypatch):
    async def fail(shard: Path, before: Before) -> Apart:
        await before()
        raise OSError("no more processes")

    with pytest.raises(OSError, match="no more processes"):
        await collection.move_out(fail)
    assert isinstance(collection.host, Here)
    assert (await nearest(collection, 7), await count(collection)) == (7, N)
    await collection.write("Upsert", upsert_of([N]))
    assert await count(collection) == N + 1


async def test_a_process_says_what_the_engine_here_says(catalogue, collection):
    bad = [
        ("Query", qdrant.QueryPoints(query=qdrant.Query(nearest=qdrant.VectorInput(dense=to_dense(np.ones(3)))))),
        ("Query", qdrant.QueryPoints(query=qdrant.Query(order_by=qdrant.OrderBy(key="n")))),
        ("Delete", qdrant.DeletePoints(points=qdrant.PointsSelector(filter=qdrant.Filter()))),
        ("Upsert", upsert_of([1], np.ones((1, 3), np.float32))),
    ]

    async def said(method: str, request) -> tuple[grpc.StatusCode, str]:
        try:
            await collection.host.call(method, request, timeout=30)
        except Refused as refused:
            return refused.code, refused.message
        except Exception as error:  # the engine's own, which the server would translate
            return grpc.StatusCode.INVALID_ARGUMENT, str(error)
        raise AssertionError("it was not refused")

    here = [await said(*call) for call in bad]
    await collection.move_out(catalogue.start)
    apart = [await said(*call) for call in bad]
    assert [code for code, _ in apart] == [code for code, _ in here] == [grpc.StatusCode.INVALID_ARGUMENT] * 4
    assert all(words in before for (_, words), (_, before) in zip(apart, here, strict=True))
    os.kill(collection.host._process.pid, signal.SIGSTOP)
    with pytest.raises(Refused) as late:
        await collection.host.call("Count", qdrant.CountPoints(), timeout=0.1)
    os.kill(collection.host._process.pid, signal.SIGCONT)
    assert late.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_points_of_two_lengths_are_refused_before_any_is_written(collection):
    numbers = range(N, N + 100)
    request = upsert_of(numbers, [*rows_of(numbers[:-1]), np.ones(3, np.float32)])
    with pytest.raises(Refused, match="dimension") as refused:
        await collection.write("Upsert", request)
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert await count(collection) == N


async def test_writes_take_effect_in_the_order_in_which_they_came(collection):
    many, one = upsert_of(range(N, 2 * N)), upsert_of([2 * N])
    writes = [("Upsert", many), ("Upsert", one), ("Delete", delete_of([2 * N]))]
    await asyncio.gather(*(collection.write(*write) for write in writes))
    assert await count(collection) == 2 * N


async def test_a_copy_is_brought_up_to_date_however_ids_are_spelled(collection, look_after):
    look_after()
    await until(lambda: isinstance(collection.host, Apart) and collection.changed is not None)
    shouted = "5C56C793-69F3-4FBF-87E6-C4BF54C28C26"
    point = qdrant.PointStruct(
        id=qdrant.PointId(uuid=shouted), vectors=qdrant.Vectors(vector=qdrant.Vector(dense=to_dense(rows_of([1])[0])))
    )
    await collection.write("Upsert", qdrant.UpsertPoints(points=[point]), lambda: known_ids([point.id]))
    shard = collection.description.shard
    await until(lambda: collection.description.shard > shard)
    assert await count(collection) == N + 1
