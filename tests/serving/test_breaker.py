"""A part that does not answer: calls fail at once, the rest goes on, and it is taken back when it answers."""

import asyncio
import re
import time
import urllib.request

import grpc
import pytest

from roost.client import AsyncClient
from roost.errors import BackendUnavailable, StoreUnavailable
from roost.v1 import gateway_pb2 as pb
from roost_serving.backends import ModelUnavailable
from roost_serving.breaker import Breaker, guarded
from roost_serving.stores import memory


@pytest.fixture
def seen():
    return []


@pytest.fixture
def breaker(seen):
    return Breaker("store", StoreUnavailable, observe=seen.append)


async def give(answer: object) -> object:
    if isinstance(answer, Exception):
        raise answer
    return answer


async def fail(breaker: Breaker) -> None:
    with pytest.raises(BackendUnavailable):
        await breaker.guard(give, BackendUnavailable("away"))


async def test_two_failures_in_a_row_open_it_and_a_look_closes_it(breaker, seen):
    await fail(breaker)
    assert await breaker.guard(give, 1) == 1
    await fail(breaker)
    assert not breaker.open
    await fail(breaker)
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        await breaker.guard(pytest.fail, "it was called")
    assert float(caught.value.facts["retry_after_seconds"]) > 0
    breaker.saw(up=False)
    assert breaker.open
    breaker.saw(up=True)
    assert await breaker.guard(give, 1) == 1
    assert seen == [False, True, False]


async def test_one_failure_that_several_calls_are_told_counts_once(breaker):
    shared = BackendUnavailable("away")
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            await breaker.guard(give, shared)
    assert not breaker.open
    await fail(breaker)
    assert breaker.open


@pytest.mark.parametrize("mistake", [ValueError, TimeoutError])
async def test_a_caller_s_own_mistake_is_no_failure(breaker, mistake):
    for _ in range(5):
        with pytest.raises(mistake):
            await breaker.guard(give, mistake("mine"))
    assert not breaker.open


async def test_one_model_of_a_server_that_answers_is_no_failure_of_the_server(breaker):
    for _ in range(5):
        with pytest.raises(BackendUnavailable):
            await breaker.guard(give, ModelUnavailable("broken", model="digits@2"))
    assert not breaker.open


async def test_calls_that_wait_end_when_it_opens(breaker):
    waiting = [asyncio.create_task(breaker.guard(asyncio.sleep, 60)) for _ in range(3)]
    given_up = asyncio.create_task(breaker.guard(asyncio.sleep, 60))
    await asyncio.sleep(0)
    given_up.cancel()
    await fail(breaker)
    await fail(breaker)
    async with asyncio.timeout(5):
        ended = await asyncio.gather(*waiting, given_up, return_exceptions=True)
    assert [type(error) for error in ended] == [StoreUnavailable] * 3 + [asyncio.CancelledError]


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


async def told(gateway) -> dict[str, float]:
    """What the metrics say of the breakers."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{gateway.http_address}/metrics", timeout=5) as answer:
            return answer.read().decode()

    text = await asyncio.to_thread(fetch)
    return {part: float(value) for part, value in re.findall(r'^roost_breaker_open{part="(\w+)"} (\S+)$', text, re.M)}


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
        assert await told(gateway) == {"backend": 0, "store": 1}
        embed = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])])
        assert all([(await stub.EmbedItems(embed)).results for _ in range(20)])
    hung.set()
    codes = []
    while "OK" not in codes:
        codes.append(await status_of(stub.SearchItems(search, timeout=5)))
        await asyncio.sleep(0.05)
    assert set(codes) <= {"UNAVAILABLE", "OK"}
    assert await told(gateway) == {"backend": 0, "store": 0}
