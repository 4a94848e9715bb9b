"""How many calls may be open: in all, of one key, and watches of the health."""

import asyncio
import urllib.request

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from roost.client import AsyncClient
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import calls, interceptor, keys
from roost_serving.server import serving

SERVING = health_pb2.HealthCheckResponse.SERVING


def told(error: grpc.aio.AioRpcError) -> tuple[str, float, str]:
    """The reason, the seconds of RetryInfo, and the milliseconds of the pushback."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    first, second = rpc_status.from_call(error).details
    assert first.Unpack(info)
    assert second.Unpack(retry)
    pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
    return info.reason, retry.retry_delay.ToMilliseconds() / 1000, pushback


@pytest.fixture
async def four(settings, monkeypatch, tmp_path):
    """A gateway with four calls and four watches, of which a key and an address have two; and two keys."""
    monkeypatch.setattr(calls, "MOST_CALLS", 4)
    monkeypatch.setattr(calls, "MOST_WATCHES", 4)
    file = tmp_path / "keys.toml"
    made = [(("authorization", f"Bearer {keys.add(file, name, role='write')}"),) for name in ("one", "other")]
    async with (
        serving(settings.model_copy(update={"keys_file": file})) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        yield running, channel, *made


async def idle(stub, key):
    """A stream that the gateway has taken, and that sends no more."""
    stream = stub.IngestItems(metadata=key)
    await stream.write(pb.IngestItemsRequest(model="digits"))
    await stream.read()
    return stream


async def test_a_key_that_holds_all_that_it_may_shuts_out_nobody_else(four):
    running, channel, one, other = four
    stub = gateway_pb2_grpc.GatewayServiceStub(channel)
    streams = [await idle(stub, one) for _ in range(2)]
    with pytest.raises(grpc.aio.AioRpcError, match="2 of 2 calls open that it may have for this caller") as caught:
        await stub.ListModels(pb.ListModelsRequest(), metadata=one)
    assert told(caught.value) == ("OVERLOADED", 0.5, "500")
    assert (await stub.ListModels(pb.ListModelsRequest(), metadata=other)).models
    streams += [await idle(stub, other) for _ in range(2)]
    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))
    assert (await check).status == SERVING
    url = f"http://{running.http_address}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    assert 'roost_refused_total{reason="OVERLOADED",rpc="ListModels"} 1.0' in text
    for stream in streams[:2]:
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    assert (await stub.ListModels(pb.ListModelsRequest(), metadata=one)).models


async def test_calls_that_are_given_up_make_room(four):
    running, channel, one, _ = four
    stub = gateway_pb2_grpc.GatewayServiceStub(channel)
    for stream in [await idle(stub, one) for _ in range(2)]:
        stream.cancel()
    silent = [channel.stream_unary("/roost.v1.GatewayService/EmbedItems")(metadata=one) for _ in range(2)]
    for call in silent:  # these never send their message
        call.cancel()
    key = one[0][1].removeprefix("Bearer ")
    async with AsyncClient(running.address, api_key=key) as client:  # which comes again where it is refused
        assert await client.models()


async def test_watches_have_a_bound_of_their_own(four):
    _, channel, one, _ = four
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
    assert [(await watch.read()).status for watch in watches] == [SERVING] * 2
    with pytest.raises(grpc.aio.AioRpcError, match="2 of 2 watches of its health open") as caught:
        await stub.Watch(health_pb2.HealthCheckRequest()).read()
    assert told(caught.value) == ("OVERLOADED", 0.5, "500")
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
    assert (await gateway_pb2_grpc.GatewayServiceStub(channel).ListModels(pb.ListModelsRequest(), metadata=one)).models
    for watch in watches:
        watch.cancel()


async def test_without_keys_all_calls_are_anybody_s(settings, monkeypatch):
    monkeypatch.setattr(calls, "MOST_CALLS", 2)
    async with serving(settings) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        streams = [await idle(stub, ()) for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError, match=r"has 2 of 2 calls open\. Try again") as caught:
            await stub.ListModels(pb.ListModelsRequest())
        assert told(caught.value) == ("OVERLOADED", 0.5, "500")
        for stream in streams:
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF


async def test_a_question_for_the_health_that_never_comes_is_not_waited_for(settings, monkeypatch):
    monkeypatch.setattr(interceptor, "HEALTH_SECONDS", 0.1)
    async with serving(settings) as running, grpc.aio.insecure_channel(running.address) as channel:
        call = channel.stream_unary("/grpc.health.v1.Health/Check")()
        assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.DEADLINE_EXCEEDED
