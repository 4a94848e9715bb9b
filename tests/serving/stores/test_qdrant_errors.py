"""What a server's answers mean, from a real gRPC server that gives each of them."""

import asyncio
import os
import signal
import time
from functools import partial

import grpc
import numpy as np
import pytest

from roost.errors import BadRequest, BadSettings, BadVector, DeadlineExceeded, DiskFull, Overloaded, StoreUnavailable
from roost_serving import backends, stores
from roost_serving.edge.protocol import qdrant
from roost_serving.stores import Point
from roost_serving.stores.qdrant import Store

POINT = Point("a", {}, None, np.array([1.0, 0.0]))


class Answering(qdrant.PointsServicer):
    """Gives one answer to every write and count, and notes what came with the call."""

    def __init__(self):
        self.status = qdrant.Completed
        self.refusal = None
        self.metadata = {}

    async def Upsert(self, request, context):
        self.metadata = dict(context.invocation_metadata())
        if self.refusal:
            await context.abort(*self.refusal)
        return qdrant.PointsOperationResponse(result=qdrant.UpdateResult(status=self.status))

    async def Count(self, request, context):
        await asyncio.Event().wait()


@pytest.fixture
async def answering():
    server, servicer = grpc.aio.server(), Answering()
    qdrant.add_PointsServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    store = Store(f"qdrant://127.0.0.1:{port}", api_key="secret")
    await store.open()
    yield store, servicer
    await store.close()
    await server.stop(grace=None)


async def until_it_answers(store):
    give_up = time.monotonic() + 60
    while True:
        try:
            return await store.ping(timeout=5)
        except StoreUnavailable:
            assert time.monotonic() < give_up, "the connection was not made again"
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("status", ["Acknowledged", "WaitTimeout", "ClockRejected"])
async def test_a_write_that_was_only_acknowledged_is_not_done(answering, status):
    store, servicer = answering
    servicer.status = qdrant.UpdateStatus.Value(status)
    with pytest.raises(StoreUnavailable, match=status):
        await store.upsert("digits@1", [POINT])


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        ("INTERNAL", "Service internal error: No space left on device: WAL buffer size exceeds", DiskFull),
        ("RESOURCE_EXHAUSTED", "No space left on device", DiskFull),
        ("RESOURCE_EXHAUSTED", "Rate limiting exceeded: Write rate limit exceeded", Overloaded),
        ("INVALID_ARGUMENT", "Wrong input: Vector dimension error: expected dim: 4, got 2", BadVector),
        ("INVALID_ARGUMENT", "Wrong input: something else", BadRequest),
        ("UNAUTHENTICATED", "Must provide an API key", StoreUnavailable),
        ("PERMISSION_DENIED", "Forbidden", StoreUnavailable),
        ("INTERNAL", "panicked at secret/path.rs", StoreUnavailable),
        ("UNAVAILABLE", "shutting down", StoreUnavailable),
        ("DEADLINE_EXCEEDED", "too slow", DeadlineExceeded),
    ],
)
async def test_a_status_becomes_the_error_that_says_what_to_do(answering, code, words, expected):
    store, servicer = answering
    servicer.refusal = (grpc.StatusCode[code], words)
    with pytest.raises(expected) as raised:
        await store.upsert("digits@1", [POINT])
    assert type(raised.value) is expected
    assert "secret" not in raised.value.message


async def test_the_api_key_goes_with_every_call(answering):
    store, servicer = answering
    await store.upsert("digits@1", [POINT])
    assert servicer.metadata["api-key"] == "secret"


async def test_a_server_that_does_not_answer_meets_the_deadline(answering):
    store, _ = answering
    with pytest.raises(DeadlineExceeded):
        await store.count("digits@1", timeout=0.1)


async def test_a_server_that_is_not_there_is_unavailable(unused_port):
    store = Store(f"qdrant://127.0.0.1:{unused_port}")
    await store.open()
    with pytest.raises(StoreUnavailable):
        await store.ping(timeout=10)
    await store.close()


@pytest.fixture
async def unused_port():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_the_gateways_store_survives_a_restart_of_the_server(engine_at, tmp_path):
    async with engine_at(tmp_path / "index") as (url, process):
        store = stores.connect(url)
        await store.open()
        await store.ensure("digits@1", dim=2)
        await store.upsert("digits@1", [POINT])
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        with pytest.raises(StoreUnavailable):
            await store.count("digits@1")
    address = url.removeprefix("qdrant://")
    async with engine_at(tmp_path / "index", address=address):
        await until_it_answers(store)
        assert await store.count("digits@1", timeout=30) == 1
    await store.close()


SECRETS = [
    "qdrant://user:hunter2@host",
    "qdrant://hunter2@host:6334",
    "qdrant:user:hunter2@host",
    "qdrant://user:hun?ter@hunter2@host",
    "qdrant://host:hunter2",
    "qdrant://host?api_key=hunter2",
    "qdrant://host?tls=1&api_key=hunter2",
    "qdrant://host#hunter2",
    "triton://user:hunter2@host",
    "triton://host:8001?token=hunter2",
    "triton:user:hunter2@host",
]


@pytest.mark.parametrize("url", SECRETS)
def test_a_secret_in_an_address_is_refused_and_not_repeated(url, tmp_path):
    triton = partial(backends.connect, repository=tmp_path, workers=1)
    with pytest.raises(BadSettings) as caught:
        (triton if url.startswith("triton") else stores.connect)(url)
    assert "hunter" not in caught.value.message + str(caught.value.facts)


@pytest.mark.parametrize(
    "url",
    [
        "qdrant://",
        "qdrant://[::1",
        "qdrant://host/path",
        "qdrant://host?tls=yes",
        "qdrant://host?key=1",
        "qdrant://host:x",
    ],
)
def test_an_address_that_says_more_or_less_than_a_server_is_refused(url):
    with pytest.raises(BadSettings, match="no address of a Qdrant server"):
        stores.connect(url)


@pytest.mark.parametrize(
    ("url", "target"), [("qdrant://host", "host:6334"), ("qdrant://h:1?tls=1", "h:1"), ("qdrant://[::1]", "[::1]:6334")]
)
def test_an_address_needs_no_port(url, target):
    assert Store(url).target == target
