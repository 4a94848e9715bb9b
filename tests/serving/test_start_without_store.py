"""A gateway that starts while its store is away: it embeds at once, and stores and searches once the store is there."""

import asyncio
import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from roost.client import AsyncClient, Item
from roost.errors import BadArtifact, BadSettings, DeadlineExceeded, DiskFull, Overloaded, StoreUnavailable
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import stores
from roost_serving.server import serving
from roost_serving.stores import memory

GATEWAY = "roost.v1.GatewayService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def held_port():
    """A port of this machine at which nobody answers; `listen` on the socket, and connections hang."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held


async def health_of(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        return (await check(health_pb2.HealthCheckRequest(service=service))).status


async def until_serving(address: str, service: str) -> None:
    async with asyncio.timeout(60):
        while await health_of(address, service) != SERVING:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.05)


async def test_without_a_store_it_embeds_and_with_one_it_stores_and_searches(
    settings, held_port, engine_at, tmp_path, digits
):
    address = "{}:{}".format(*held_port.getsockname())
    async with (
        serving(settings.model_copy(update={"store": f"qdrant://{address}"})) as running,
        grpc.aio.insecure_channel(running.address) as channel,
        AsyncClient(running.address) as client,
    ):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        search = pb.SearchItemsRequest(model="digits", item=pb.Item(image=digits[0]))
        assert (await client.embed(digits[:2], model="digits")).shape == (2, 256)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SearchItems(search, timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "is asked every 2 s" in (refused.value.details() or "")  # the breaker's words
        for method in ("SearchItems", "IngestItems"):
            assert await health_of(running.address, f"{GATEWAY}/{method}") == NOT_SERVING
        for service in ("", "readiness", f"{GATEWAY}/EmbedItems"):
            assert await health_of(running.address, service) == SERVING
        held_port.close()
        async with engine_at(tmp_path / "index", address=address):
            for method in ("SearchItems", "IngestItems"):
                await until_serving(running.address, f"{GATEWAY}/{method}")
            (stored,) = [each async for each in client.ingest([Item(digits[0], id="one")], model="digits")]
            assert (stored.kind, stored.model) == ("stored", "digits@1")
            (hit,) = await client.search(digits[0], model="digits")
            assert hit.item.id == "one"


async def test_a_store_that_hangs_holds_up_no_start(settings, held_port, digits):
    held_port.listen()
    store = "qdrant://{}:{}".format(*held_port.getsockname())
    begun = time.monotonic()
    async with serving(settings.model_copy(update={"store": store})) as running, AsyncClient(running.address) as client:
        assert time.monotonic() - begun < 30
        assert (await client.embed(digits[:1], model="digits")).shape == (1, 256)
        assert await health_of(running.address, f"{GATEWAY}/SearchItems") == NOT_SERVING


@pytest.mark.parametrize("error", [StoreUnavailable("away"), DeadlineExceeded("slow"), Overloaded("busy")])
async def test_collections_that_cannot_be_made_yet_are_made_later(settings, monkeypatch, digits, error, caplog):
    ensure, away = memory.Store.ensure, True

    async def hindered(self, collection, **named):
        if away and collection == "plain@1":
            raise error
        await ensure(self, collection, **named)

    monkeypatch.setattr("roost_serving.health.PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(memory.Store, "ensure", hindered)
    async with serving(settings) as running, AsyncClient(running.address) as client:
        assert await health_of(running.address, f"{GATEWAY}/SearchItems") == NOT_SERVING
        away = False
        await until_serving(running.address, f"{GATEWAY}/SearchItems")
        outcomes = [each async for each in client.ingest([Item(digits[0])], model="plain")]
        assert [each.kind for each in outcomes] == ["stored"]
    assert caplog.text.count(error.message) == 1


async def test_on_a_full_disk_it_starts_and_searches_what_is_stored(settings, monkeypatch, digits):
    ensure = memory.Store.ensure

    async def full(self, collection, **named):
        if collection == "plain@1":
            raise DiskFull("No room for a collection.")
        await ensure(self, collection, **named)

    monkeypatch.setattr(memory.Store, "ensure", full)
    async with serving(settings) as running, AsyncClient(running.address) as client:
        assert await health_of(running.address, f"{GATEWAY}/SearchItems") == SERVING
        assert len(await client.search(digits[0], model="digits")) == 0


async def test_a_collection_of_another_length_ends_the_start(settings, engine_at, tmp_path):
    async with engine_at(tmp_path / "index") as (url, _):
        store = stores.connect(url, api_key=None)
        await store.open()
        await store.ensure("digits@1", dim=3)
        await store.close()
        with pytest.raises(BadArtifact, match="holds vectors of 3 values"):
            async with serving(settings.model_copy(update={"store": url})):
                pass


async def test_an_embedded_store_that_another_process_holds_ends_the_start(settings, engine_at, tmp_path):
    async with engine_at(tmp_path / "index"):
        with pytest.raises(BadSettings):
            async with serving(settings.model_copy(update={"store": f"edge://{tmp_path / 'index'}"})):
                pass
