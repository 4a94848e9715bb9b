"""A part that does not answer: calls fail at once, the rest goes on, and it is taken back when it answers."""

import asyncio
import time

import grpc
import pytest

from roost.client import AsyncClient
from roost.errors import BackendUnavailable, StoreUnavailable
from roost.v1 import gateway_pb2 as pb
from roost_serving.breaker import Breaker, guarded
from roost_serving.stores import memory


@pytest.fixture
def seen():
    return []


@pytest.fixture
def breaker(seen):
    return Breaker("store", StoreUnavailable, observe=seen.append)


def fail(breaker: Breaker) -> None:
    with pytest.raises(BackendUnavailable), breaker.guard():
        raise BackendUnavailable("away")


def test_two_failures_in_a_row_open_it_and_a_look_closes_it(breaker, seen):
    fail(breaker)
    with breaker.guard():
        pass
    fail(breaker)
    assert not breaker.open
    fail(breaker)
    with pytest.raises(StoreUnavailable, match="does not answer") as caught, breaker.guard():
        pytest.fail("it was called")
    assert float(caught.value.facts["retry_after_seconds"]) > 0
    breaker.saw(up=False)
    assert breaker.open
    breaker.saw(up=True)
    with breaker.guard():
        pass
    assert seen == [False, True, False]


def test_a_caller_s_own_mistake_is_no_failure(breaker):
    for _ in range(5):
        with pytest.raises(ValueError, match="mine"), breaker.guard():
            raise ValueError("mine")
    assert not breaker.open


async def test_only_calls_go_through_it(breaker):
    class Part:
        models = ("a",)

        async def ping(self):
            return "pong"

        async def get(self, *, key):
            return key

    part = guarded(Part(), breaker, ["get"])
    assert (part.models, await part.ping(), await part.get(key=1)) == (("a",), "pong", 1)
    breaker.saw(up=False)
    breaker.saw(up=False)
    assert await part.ping() == "pong"
    with pytest.raises(StoreUnavailable):
        await part.get(key=1)


async def status_of(call) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_with_a_store_that_hangs_embeddings_go_on_and_searches_fail_at_once(gateway, stub, digits, monkeypatch):
    hung = asyncio.Event()

    async def hang(self, *args, **named):
        await hung.wait()

    monkeypatch.setattr("roost_serving.health.PERIOD_SECONDS", 0.05)
    with monkeypatch.context() as patch:
        for name in ("ping", "search"):
            patch.setattr(memory.Store, name, hang)
        search = pb.SearchItemsRequest(model="digits", item=pb.Item(image=digits[0]))
        codes = []
        while "UNAVAILABLE" not in codes:
            codes.append(await status_of(stub.SearchItems(search, timeout=0.5)))
        assert set(codes) <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
        begun = time.monotonic()
        assert await status_of(stub.SearchItems(search, timeout=30)) == "UNAVAILABLE"
        async with AsyncClient(gateway.address) as client:  # which sends nothing again
            with pytest.raises(StoreUnavailable):
                await client.search(digits[0], model="digits")
        assert time.monotonic() - begun < 1
        embed = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])])
        assert all([(await stub.EmbedItems(embed)).results for _ in range(20)])
    hung.set()
    codes = []
    while "OK" not in codes:
        codes.append(await status_of(stub.SearchItems(search, timeout=5)))
        await asyncio.sleep(0.05)
    assert set(codes) <= {"UNAVAILABLE", "OK"}
