"""The pipeline between a real backend and a real store, without gRPC."""

import asyncio

import numpy as np
import pytest

from roost.artifact import Data, Input, Manifest
from roost.errors import BackendUnavailable, BadImage, DeadlineExceeded, RoostError, StoreUnavailable
from roost_serving import backends
from roost_serving.admission import Load
from roost_serving.metrics import Metrics
from roost_serving.pipeline import Item, Pipeline
from roost_serving.stores import Filter, memory
from roost_serving.vectors import unit


class Slow(memory.Store):
    """Takes a moment for each answer, keeps the time that it was given, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__("memory://", api_key=None)
        self.given: list[float] = []
        self.away = False

    async def _moment(self, timeout: float | None) -> None:
        assert timeout is not None
        self.given.append(timeout)
        if self.away:
            raise StoreUnavailable("The store is away.")
        await asyncio.sleep(0.01)

    async def get(self, collection, item_ids, *, with_vectors, timeout=None):
        await self._moment(timeout)
        return await super().get(collection, item_ids, with_vectors=with_vectors, timeout=timeout)

    async def search(self, collection, vector, **rest):
        await self._moment(rest["timeout"])
        return await super().search(collection, vector, **rest)

    async def upsert(self, collection, points, *, timeout=None):
        await self._moment(timeout)
        await super().upsert(collection, points, timeout=timeout)


@pytest.fixture
async def parts(repository):
    """A pipeline, its store and its metrics."""
    backend = backends.connect(f"onnx://{repository}", repository=repository, workers=1)
    store, metrics = Slow(), Metrics()
    pipeline = Pipeline(backend, store, limit=Load(16, 2**20), observer=metrics)
    await pipeline.open()
    yield pipeline, store, metrics
    await pipeline.close()


def counted(metrics: Metrics) -> tuple[float, float]:
    """Images of `digits@1` that succeeded, and that failed."""
    ok, failed = (
        metrics.registry.get_sample_value("roost_images_total", {"model": "digits@1", "result": result}) or 0.0
        for result in ("ok", "error")
    )
    return ok, failed


async def ingest(pipeline: Pipeline, image: bytes, *, timeout: float = 60, skip_existing: bool = False):
    return await pipeline.ingest(
        pipeline.served.find("digits"), Item(image), skip_existing=skip_existing, timeout=timeout
    )


async def test_an_item_counts_as_ok_once_it_is_stored(parts, digits):
    pipeline, _, metrics = parts
    await ingest(pipeline, digits[0])
    assert counted(metrics) == (1, 0)
    assert (await ingest(pipeline, digits[0], skip_existing=True)).existed
    assert counted(metrics) == (1, 0)


async def test_an_item_that_could_not_be_stored_counts_as_an_error(parts, digits):
    pipeline, store, metrics = parts
    store.away = True
    with pytest.raises(StoreUnavailable):
        await ingest(pipeline, digits[0])
    assert counted(metrics) == (0, 1)


async def test_a_bad_image_of_a_call_counts_as_an_error_beside_the_good_ones(parts, digits):
    pipeline, _, metrics = parts
    items = [Item(digits[0]), Item(b"no image"), Item(digits[1])]
    results = await pipeline.embed(pipeline.served.find("digits"), items, timeout=60)
    assert isinstance(results[1], BadImage)
    assert counted(metrics) == (2, 1)


@pytest.mark.parametrize("closed", [False, True])
async def test_a_call_that_fails_as_a_whole_counts_all_its_images_as_errors(parts, digits, closed):
    pipeline, _, metrics = parts
    if closed:
        await pipeline.backend.close()
    with pytest.raises((BackendUnavailable, DeadlineExceeded)):
        await pipeline.embed(pipeline.served.find("digits"), [Item(digits[0])] * 3, timeout=0)
    assert counted(metrics) == (0, 3)


async def test_each_stage_of_a_search_is_given_what_the_one_before_it_left(parts, digits):
    pipeline, store, _ = parts
    await ingest(pipeline, digits[0], timeout=60)
    store.given.clear()
    item = (
        await pipeline.page(
            pipeline.served.find("digits"), limit=1, start=None, filter=Filter(), with_vectors=False, timeout=None
        )
    ).points[0]
    await pipeline.search(
        pipeline.served.find("digits"), item.id, limit=1, filter=Filter(), with_vectors=False, timeout=50
    )
    first, second = store.given
    assert second <= first - 0.01 < 50


async def test_a_deadline_that_passes_between_two_stages_ends_the_item(parts, digits):
    pipeline, store, _ = parts
    with pytest.raises(RoostError):
        await ingest(pipeline, digits[0], timeout=0.005, skip_existing=True)
    assert len(store.given) == 1
    assert await store.count("digits@1") == 0


@pytest.mark.parametrize("size", [3e38, 1.0, 1e-40])
def test_a_vector_of_any_length_is_scaled_to_unit_length(size):
    manifest = Manifest(
        name="any",
        method="simclr",
        encoder="resnet10w32",
        input=Input(size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        dim=4,
        data=Data(fingerprint="0" * 64, images=1),
    )
    assert unit(np.full(4, size, np.float32), manifest) == pytest.approx([0.5] * 4, rel=1e-4)
