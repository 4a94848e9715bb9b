"""Searching, filtering, paging and counting. Runs over every store."""

import asyncio
import uuid

import numpy as np
import pytest
import pytest_asyncio

from roost.errors import BadPageToken, BadRequest
from roost_serving.stores import Condition, Filter, Point, Range

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANY = np.ones(8)


async def ids(store, collection, filter):
    """The numbers in the ids of all items that a filter lets through; search, scroll and count must agree on them."""
    page = await store.scroll(collection, limit=1000, filter=filter)
    hits = await store.search(collection, ANY, limit=1000, filter=filter)
    scrolled = {point.id for point in page.points}
    assert {hit.point.id for hit in hits} == scrolled
    assert await store.count(collection, filter=filter) == len(scrolled)
    return sorted(int(name.removeprefix("item-")) for name in scrolled)


async def test_neighbours_and_scores_equal_brute_force(store, collection, fill):
    points = await fill(store, 500)
    matrix = np.stack([point.vector for point in points]).astype(np.float64)
    for query in np.random.default_rng(1).normal(size=(20, 8)):
        scores = matrix @ (query / np.linalg.norm(query))
        nearest = np.argsort(-scores)[:10]
        hits = await store.search(collection, query.astype(np.float32), limit=10, with_vectors=True)
        assert [hit.point.id for hit in hits] == [points[row].id for row in nearest]
        np.testing.assert_allclose([hit.score for hit in hits], scores[nearest], atol=1e-5)
        np.testing.assert_allclose(np.stack([hit.point.vector for hit in hits]), matrix[nearest], atol=1e-6)


async def test_an_item_is_its_own_nearest_neighbour_unless_excluded(store, collection, fill):
    points = await fill(store, 50)
    [first] = await store.search(collection, points[7].vector, limit=1)
    [second] = await store.search(collection, points[7].vector, limit=1, exclude="item-7")
    assert (first.point.id, first.score) == ("item-7", pytest.approx(1.0, abs=1e-5))
    assert second.point.id != "item-7"


async def test_excluding_an_item_that_is_not_stored_hides_nothing(store, collection, fill):
    await fill(store, 5)
    assert len(await store.search(collection, ANY, limit=10, exclude="absent")) == 5


async def test_hits_carry_payload_and_placement_and_vectors_only_where_asked(store, collection, fill):
    points = await fill(store, 5)
    [hit] = await store.search(collection, points[3].vector, limit=1)
    assert (hit.point.payload, hit.point.placement.cluster, hit.point.vector) == ({"n": 3}, 3, None)


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one_is_refused(store, collection, limit):
    with pytest.raises(BadRequest, match="limit"):
        await store.search(collection, ANY, limit=limit)
    with pytest.raises(BadRequest, match="limit"):
        await store.scroll(collection, limit=limit)


async def test_a_filter_by_cluster_takes_any_of_the_clusters(store, collection, fill):
    await fill(store, 20)
    assert await ids(store, collection, Filter(clusters=[1, 2])) == [n for n in range(20) if n % 4 in (1, 2)]


async def test_a_filter_by_anomaly_takes_either_side(store, collection, fill):
    await fill(store, 20)
    assert await ids(store, collection, Filter(anomaly=True)) == [0, 10]
    assert len(await ids(store, collection, Filter(anomaly=False))) == 18


async def test_filters_join_by_and(store, collection, fill):
    await fill(store, 50)
    both = Filter(payload=[Condition("n", Range(min=10, max=30))], clusters=[0, 2], anomaly=True)
    assert await ids(store, collection, both) == [10, 20, 30]


async def test_an_empty_filter_takes_all(store, collection, fill):
    await fill(store, 12)
    assert await ids(store, collection, Filter()) == list(range(12))


PAYLOADS = [
    {"colour": "red", "n": 3, "ok": True, "size": {"width px": 2.5}},
    {"colour": ["red", "blue"], "n": 3.0, "ok": False, "size": {"width px": 3}},
    {"colour": "Red", "n": "3", "ok": 1, "size": {"width px": None}},
    {"colour": None, "n": True, "ok": "true", "size.width px": 2.5},
    {"n": [1, 3]},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kinds(store) -> str:
    name = f"kinds-{uuid.uuid4().hex[:12]}@1"
    rows = np.random.default_rng(0).normal(size=(len(PAYLOADS), 8))
    await store.ensure(name, dim=8)
    await store.upsert(name, [Point(f"item-{i}", payload, None, rows[i]) for i, payload in enumerate(PAYLOADS)])
    return name


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition("colour", "red"), [0, 1]),
        (Condition("colour", "blue"), [1]),
        (Condition("colour", ""), []),
        (Condition("n", 3), [0, 1, 4]),
        (Condition("n", 4), []),
        (Condition("ok", True), [0]),
        (Condition("ok", False), [1]),
        (Condition("n", Range(min=2)), [0, 1, 4]),
        (Condition("n", Range(max=2)), [4]),
        (Condition("n", Range(min=3, max=3)), [0, 1, 4]),
        (Condition("size.width px", Range(min=2.5, max=2.5)), [0]),
        (Condition("size.width px", 3), [1]),
        (Condition("absent.key", "x"), []),
        (Condition("naïve-key[]", "x"), []),
    ],
    ids=str,
)
async def test_a_condition_tells_kinds_of_values_apart(store, kinds, condition, expected):
    assert await ids(store, kinds, Filter(payload=[condition])) == expected


@pytest.mark.parametrize(
    "condition",
    [Condition("", "x"), Condition("a..b", "x"), Condition('a"b', "x"), Condition("a", Range())],
    ids=str,
)
async def test_a_condition_without_meaning_is_refused(store, collection, condition):
    with pytest.raises(BadRequest):
        await store.search(collection, ANY, limit=5, filter=Filter(payload=[condition]))
    with pytest.raises(BadRequest):
        await store.count(collection, filter=Filter(payload=[condition]))


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\\"])
async def test_a_key_that_an_engine_could_not_read_is_refused_in_our_own_words(store, collection, key):
    with pytest.raises(BadRequest, match="cannot be filtered by"):
        await store.count(collection, filter=Filter(payload=[Condition(key, "x")]))


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_pages_cover_each_point_once(store, collection, fill, limit):
    await fill(store, 40)
    seen, start = [], None
    while True:
        page = await store.scroll(collection, limit=limit, start=start, filter=Filter(anomaly=False))
        assert len(page.points) <= limit
        seen += [point.id for point in page.points]
        start = page.next_key
        if start is None:
            break
    assert sorted(seen) == sorted(f"item-{n}" for n in range(40) if n % 10)


async def test_a_page_ends_where_the_points_end(store, collection, fill):
    await fill(store, 6)
    page = await store.scroll(collection, limit=6, with_vectors=True)
    assert (len(page.points), page.next_key) == (6, None)
    assert page.points[0].vector.shape == (8,)


async def test_a_page_starts_at_no_foreign_key(store, collection):
    with pytest.raises(BadPageToken):
        await store.scroll(collection, limit=3, start="item-1")


async def test_clusters_are_counted_and_empty_ones_are_absent(store, collection, fill, make_point):
    await fill(store, 10)
    await store.upsert(collection, [make_point("no-placement", ANY)])
    assert await store.count_clusters(collection) == {0: 3, 1: 3, 2: 2, 3: 2}
    await store.delete(collection, "item-3")
    await store.delete(collection, "item-7")
    assert await store.count_clusters(collection) == {0: 3, 1: 3, 2: 2}


async def test_what_was_written_is_found_by_the_next_search(store, collection, make_point):
    await store.ensure(collection, dim=64)
    rows = np.random.default_rng(3).normal(size=(100, 64))
    for i, row in enumerate(rows):
        await store.upsert(collection, [make_point(f"item-{i}", row)])
        [hit] = await store.search(collection, row.astype(np.float32), limit=1)
        assert hit.point.id == f"item-{i}"


async def test_writers_and_readers_do_not_disturb_each_other(store, collection, make_point):
    await store.ensure(collection, dim=8)
    rows = np.random.default_rng(4).normal(size=(400, 8))

    async def write(first):
        for i in range(first, 400, 4):
            await store.upsert(collection, [make_point(f"item-{i}", rows[i])])

    async def read():
        for row in rows[:50]:
            await store.search(collection, row.astype(np.float32), limit=5)

    await asyncio.gather(*[write(first) for first in range(4)], read(), read())
    assert await store.count(collection) == 400
