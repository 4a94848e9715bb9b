"""Every store that there is, running: the suite beside this file holds for each of them."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from roost import plugins
from roost.clusters import Placement
from roost_serving import stores

Engine = Callable[..., AbstractAsyncContextManager[tuple[str, asyncio.subprocess.Process]]]
SERVER_URL = os.environ.get("ROOST_TEST_QDRANT_URL")


@asynccontextmanager
async def memory_url(tmp_path: Path, engine_at: Engine) -> AsyncIterator[str]:
    yield "memory://"


@asynccontextmanager
async def edge_url(tmp_path: Path, engine_at: Engine) -> AsyncIterator[str]:
    yield f"edge://{tmp_path / 'index'}"


@asynccontextmanager
async def qdrant_url(tmp_path: Path, engine_at: Engine) -> AsyncIterator[str]:
    async with engine_at(tmp_path / "index") as (url, _):
        yield url


@asynccontextmanager
async def server_url(tmp_path: Path, engine_at: Engine) -> AsyncIterator[str]:
    yield SERVER_URL


URLS = {"memory": memory_url, "edge": edge_url, "qdrant": qdrant_url, "server": server_url}
NAMES = [*plugins.names(stores), *(["server"] if SERVER_URL else [])]


@pytest_asyncio.fixture(params=NAMES, scope="module", loop_scope="module")
async def store(request, tmp_path_factory, engine_at) -> AsyncIterator[stores.Store]:
    async with URLS[request.param](tmp_path_factory.mktemp(request.param), engine_at) as url:
        store = stores.connect(url, api_key=os.environ.get("ROOST_TEST_QDRANT_API_KEY") if SERVER_URL else None)
        await store.open()
        yield store
        await store.close()


@pytest.fixture
def collection() -> str:
    """A name that no other test has: they share a store, and a real server keeps what a test leaves."""
    return f"digits-{uuid.uuid4().hex[:12]}@1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(store) -> str:
    """A collection of vectors with two values, made once for many tests, since making one takes a while."""
    name = f"plane-{uuid.uuid4().hex[:12]}@1"
    await store.ensure(name, dim=2)
    return name


@pytest.fixture
def make_point() -> Callable[..., stores.Point]:
    def make(name: str, vector, *, payload=None, cluster=None, anomaly=False) -> stores.Point:
        vector = np.asarray(vector, dtype=np.float32)
        placement = None
        if cluster is not None:
            placement = Placement(cluster, distance=0.5, log_likelihood=-3.25, anomaly_score=1.5, anomaly=anomaly)
        return stores.Point(name, payload or {}, placement, vector / np.linalg.norm(vector))

    return make


@pytest.fixture
def fill(collection, make_point) -> Callable[..., Awaitable[list[stores.Point]]]:
    """Store points 0..n-1 in clusters i mod 4, every tenth an anomaly, with payload {"n": i}."""

    async def fill(store: stores.Store, n: int, *, dim: int = 8, seed: int = 0) -> list[stores.Point]:
        vectors = np.random.default_rng(seed).normal(size=(n, dim))
        points = [
            make_point(f"item-{i}", vectors[i], payload={"n": i}, cluster=i % 4, anomaly=i % 10 == 0) for i in range(n)
        ]
        await store.ensure(collection, dim=dim)
        await store.upsert(collection, points)
        return points

    return fill
