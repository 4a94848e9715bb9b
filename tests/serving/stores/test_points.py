"""What goes into a store comes out of it. Runs over every store."""

import asyncio
import json
import math
import uuid

import numpy as np
import pytest

from roost.clusters import Placement
from roost.errors import BadArtifact, BadRequest, BadSettings, BadVector, DeadlineExceeded, UnknownModel
from roost_serving.stores import Point

pytestmark = pytest.mark.asyncio(loop_scope="module")

X, Y = [1.0, 0.0], [0.0, 1.0]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -(2**63),
        2**63 - 1,
        3.0,
        -0.1,
        1e300,
        "",
        "naïve 東京 🪺",
        [],
        [1, 1.5, "a", None, [True]],
        {},
        {"a": {"b": [{"c": "d"}]}, "": 1, "a.b": 2},
    ],
    ids=repr,
)
async def test_a_payload_comes_back_as_it_went_in(store, plane, make_point, value):
    await store.upsert(plane, [make_point("a", X, payload={"value": value})])
    [found] = await store.get(plane, ["a"], with_vectors=False)
    # As text, for 3 == 3.0 and True == 1.
    assert json.dumps(found.payload, sort_keys=True) == json.dumps({"value": value}, sort_keys=True)


async def test_a_point_comes_back_whole(store, plane):
    placement = Placement(7, 0.25, -math.inf, 1.5, True, responsibilities=np.array([1.0], dtype=np.float32))
    point = Point("a", {"k": 1}, placement, np.array([0.6, 0.8], dtype=np.float32))
    await store.upsert(plane, [point])
    [found] = await store.get(plane, ["a"], with_vectors=True)
    assert (found.id, found.payload) == ("a", {"k": 1})
    assert found.placement == Placement(7, 0.25, -math.inf, 1.5, True, responsibilities=None)
    assert found.vector.dtype == np.float32
    np.testing.assert_allclose(found.vector, [0.6, 0.8], atol=1e-6)


async def test_a_point_without_a_placement_has_none(store, plane, make_point):
    await store.upsert(plane, [make_point("a", X)])
    [found] = await store.get(plane, ["a"], with_vectors=False)
    assert found.placement is None
    assert found.vector is None


async def test_an_upsert_replaces_the_whole_point(store, collection, make_point):
    await store.ensure(collection, dim=2)
    await store.upsert(collection, [make_point("a", X, payload={"old": 1}, cluster=1)])
    await store.upsert(collection, [make_point("a", Y, payload={"new": 2})])
    [found] = await store.get(collection, ["a"], with_vectors=True)
    assert found.payload == {"new": 2}
    assert found.placement is None
    np.testing.assert_allclose(found.vector, Y, atol=1e-6)
    assert await store.count(collection) == 1


async def test_an_id_that_is_a_uuid_and_one_that_is_not_are_both_kept(store, plane, make_point):
    names = [str(uuid.uuid4()), "photos/1.png", "ß"]
    await store.upsert(plane, [make_point(name, X) for name in names])
    found = await store.get(plane, [*names, "absent", names[0]], with_vectors=False)
    assert sorted(point.id for point in found) == sorted(names)


async def test_a_vector_is_stored_at_unit_length(store, plane):
    await store.upsert(plane, [Point("a", {}, None, np.array([3.0, 4.0]))])
    [found] = await store.get(plane, ["a"], with_vectors=True)
    np.testing.assert_allclose(found.vector, [0.6, 0.8], atol=1e-6)


async def test_delete_tells_whether_there_was_a_point(store, collection, make_point):
    await store.ensure(collection, dim=2)
    await store.upsert(collection, [make_point("a", X), make_point("b", Y)])
    assert await store.delete(collection, "a") is True
    assert await store.delete(collection, "a") is False
    assert await store.get(collection, ["a"], with_vectors=False) == []
    assert [hit.point.id for hit in await store.search(collection, np.array(X), limit=5)] == ["b"]


async def test_a_collection_that_was_never_ensured_reads_as_empty(store, collection):
    assert await store.get(collection, ["a"], with_vectors=False) == []
    assert await store.search(collection, np.array(X), limit=5) == []
    assert (await store.scroll(collection, limit=5)).points == []
    assert await store.count(collection) == 0
    assert await store.count_clusters(collection) == {}
    assert await store.delete(collection, "a") is False


async def test_a_collection_that_was_never_ensured_takes_no_points(store, collection, make_point):
    with pytest.raises(UnknownModel):
        await store.upsert(collection, [make_point("a", X)])


async def test_ensuring_twice_changes_nothing(store, collection, fill):
    await fill(store, 5)
    await store.ensure(collection, dim=8)
    assert await store.count(collection) == 5


async def test_many_can_ensure_a_collection_at_once(store, collection):
    await asyncio.gather(*[store.ensure(collection, dim=3) for _ in range(8)])
    assert await store.count(collection) == 0


async def test_a_collection_of_another_length_is_refused(store, collection):
    await store.ensure(collection, dim=8)
    with pytest.raises(BadArtifact, match="8 values"):
        await store.ensure(collection, dim=9)


async def test_an_alias_moves_to_the_next_version(store, collection, make_point):
    alias, following = collection.partition("@")[0], collection.replace("@1", "@2")
    for name, item in ((collection, "old"), (following, "new")):
        await store.ensure(name, dim=2, alias=alias)
        await store.upsert(name, [make_point(item, X)])
        assert [point.id for point in (await store.scroll(alias, limit=5)).points] == [item]


async def test_an_alias_cannot_be_a_collections_name(store, collection):
    await store.ensure(collection, dim=2)
    with pytest.raises(BadSettings, match="alias"):
        await store.ensure(collection.replace("@1", "@2"), dim=2, alias=collection)


@pytest.mark.parametrize(
    "bad", [[math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0], [1.0, 2.0, 3.0], [], [[1.0, 2.0]]], ids=str
)
async def test_a_bad_vector_is_refused_and_the_store_goes_on(store, plane, make_point, bad):
    with pytest.raises(BadVector):
        await store.upsert(plane, [Point("bad", {}, None, np.array(bad))])
    with pytest.raises(BadVector):
        await store.search(plane, np.array(bad), limit=5)
    assert await store.get(plane, ["bad"], with_vectors=False) == []
    await store.upsert(plane, [make_point("good", X)])
    assert await store.search(plane, np.array(X), limit=1)


async def test_a_point_without_a_vector_is_refused(store, plane):
    with pytest.raises(BadVector):
        await store.upsert(plane, [Point("a", {}, None, None)])


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**63, {1: 2}, {3}, nested(40)], ids=lambda value: repr(value)[:20]
)
async def test_a_payload_that_could_not_come_back_is_refused(store, plane, make_point, value):
    with pytest.raises(BadRequest):
        await store.upsert(plane, [make_point("refused", X, payload={"value": value})])
    assert await store.get(plane, ["refused"], with_vectors=False) == []


async def test_a_payload_of_ten_levels_comes_back(store, plane, make_point):
    await store.upsert(plane, [make_point("a", X, payload=nested(10))])
    [found] = await store.get(plane, ["a"], with_vectors=False)
    assert found.payload == nested(10)


async def test_a_deadline_that_has_passed_stops_the_work(store, plane, make_point):
    with pytest.raises(DeadlineExceeded):
        await store.upsert(plane, [make_point("late", X)], timeout=0.0)
    with pytest.raises(DeadlineExceeded):
        await store.search(plane, np.array(X), limit=1, timeout=0.0)
    assert await store.get(plane, ["late"], with_vectors=False, timeout=30.0) == []


async def test_a_store_that_lives_answers_a_ping(store):
    await store.ping(timeout=10.0)
