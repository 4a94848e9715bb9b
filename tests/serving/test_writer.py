import asyncio

import numpy as np
import pytest

from roost.errors import BadRequest, BadVector, DeadlineExceeded
from roost_serving.stores import Point
from roost_serving.stores.memory import Store
from roost_serving.writer import Writer

UNIT = np.array([1, 0], np.float32)


class Sizes:
    """Keeps the sizes of the writes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def stored(self, points: int) -> None:
        self.sizes.append(points)


class Hanging(Store):
    """Takes no write before it is told to."""

    def __init__(self, url: str, *, api_key: str | None) -> None:
        super().__init__(url, api_key=api_key)
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def upsert(self, collection, points, *, timeout=None) -> None:
        self.asked.set()
        await self.answers.wait()
        await super().upsert(collection, points, timeout=timeout)


@pytest.fixture
async def store():
    store = Store("memory://", api_key=None)
    await store.open()
    await store.ensure("digits@1", dim=2)
    yield store
    await store.close()


def point(name: str, vector: np.ndarray = UNIT, **payload) -> Point:
    return Point(name, payload, None, vector)


async def test_points_that_come_together_are_written_together(store):
    sizes = Sizes()
    writer = Writer(store, sizes)
    await asyncio.gather(*[writer.write("digits@1", point(str(place)), timeout=5) for place in range(300)])
    assert sum(sizes.sizes) == 300
    assert max(sizes.sizes) == 256
    assert await store.count("digits@1") == 300


async def test_of_two_points_with_one_id_the_last_is_kept(store):
    writer = Writer(store, Sizes())
    await asyncio.gather(*[writer.write("digits@1", point("a", turn=turn), timeout=5) for turn in range(9)])
    (kept,) = await store.get("digits@1", ["a"], with_vectors=False)
    assert kept.payload == {"turn": 8}


async def test_an_error_of_the_store_reaches_whoever_waits(store):
    writer = Writer(store, Sizes())
    with pytest.raises(BadVector):
        await writer.write("digits@1", point("a", np.array([np.nan, 0], np.float32)), timeout=5)
    await writer.write("digits@1", point("b"), timeout=5)
    assert await store.count("digits@1") == 1


async def test_a_point_that_no_store_takes_fails_alone(store):
    writer = Writer(store, Sizes())
    deep = 0
    for _ in range(17):
        deep = [deep]
    writes = [
        writer.write("digits@1", point(name, value=value), timeout=5)
        for name, value in {"a": 1, "b": deep, "c": 3}.items()
    ]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), BadRequest, type(None)]
    assert await store.count("digits@1") == 2


async def test_points_whose_callers_went_away_leave_the_queue_of_a_store_that_hangs():
    hanging = Hanging("memory://", api_key=None)
    await hanging.open()
    await hanging.ensure("digits@1", dim=2)
    writer = Writer(hanging, Sizes())
    first = asyncio.create_task(writer.write("digits@1", point("first"), timeout=5))
    await hanging.asked.wait()
    late = [writer.write("digits@1", point(str(place)), timeout=0.01) for place in range(300)]
    results = await asyncio.gather(*late, return_exceptions=True)
    assert {type(result) for result in results} == {DeadlineExceeded}
    hanging.answers.set()
    await first
    await writer.close()
    assert await hanging.count("digits@1") == 1


async def test_closing_waits_for_what_was_begun(store):
    writer = Writer(store, Sizes())
    begun = asyncio.create_task(writer.write("digits@1", point("a"), timeout=5))
    await asyncio.sleep(0)
    await writer.close()
    assert await store.count("digits@1") == 1
    await begun
