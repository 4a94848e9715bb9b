"""Refusals over the wire: what a program is told, so that it comes again in time, or not at all."""

import asyncio
import time
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from roost import errors
from roost.client import AsyncClient
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import keys, status
from roost_serving.server import serving
from roost_serving.stores import memory
from roost_serving.stores._messages import to_error


def told(error: grpc.aio.AioRpcError) -> tuple[str, float | None, int | None]:
    """The reason, the seconds of RetryInfo, and the milliseconds of the pushback."""
    info, retry, seconds = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), None
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(retry):
            seconds = retry.retry_delay.ToMilliseconds() / 1000
        else:
            assert detail.Unpack(info)
    pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    return info.reason, seconds, None if pushback is None else int(pushback)


async def refused(stub, images, **options) -> tuple[str, float | None, int | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EmbedItems(
            pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=image) for image in images]), **options
        )
    return told(caught.value)


async def test_an_overloaded_gateway_says_when_to_come_again(settings, digits):
    small = settings.model_copy(update={"max_in_flight": 4, "workers": 1})
    async with serving(small) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        request = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])] * 4)
        answers = await asyncio.gather(*[stub.EmbedItems(request) for _ in range(20)], return_exceptions=True)
        found = {told(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)}
        assert found == {("OVERLOADED", 0.5, 500)}
        assert any(isinstance(answer, pb.EmbedItemsResponse) for answer in answers)


async def test_what_is_too_large_is_not_to_be_sent_again(settings, digits):
    small = settings.model_copy(update={"max_in_flight": 4, "max_in_flight_bytes": 3 * len(digits[0])})
    async with serving(small) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        assert await refused(stub, [digits[0]] * 4) == ("TOO_LARGE", None, -1)
        assert await refused(stub, [b"x"] * 5) == ("TOO_LARGE", None, -1)


async def test_what_is_wrong_has_no_pushback(stub):
    assert await refused(stub, [b"no image"]) == ("BAD_IMAGE", None, None)


async def test_a_key_beyond_its_rate_is_told_when_it_may_go_on(settings, digits, tmp_path):
    file = tmp_path / "keys.toml"
    slow, free = keys.add(file, "slow", images_per_second=2), keys.add(file, "free")
    guarded = settings.model_copy(update={"keys_file": file})
    async with serving(guarded) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        request = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])] * 6)
        await stub.EmbedItems(request, metadata=(("authorization", f"Bearer {slow}"),))
        reason, seconds, pushback = await refused(stub, digits[:1], metadata=(("authorization", f"Bearer {slow}"),))
        assert reason == "RATE_LIMITED"
        assert seconds == pytest.approx(2.0, abs=1.0)
        assert pushback == round(seconds * 1000)
        await stub.EmbedItems(request, metadata=(("authorization", f"Bearer {free}"),))


async def test_a_key_beyond_its_calls_is_refused_whatever_it_asks(settings, tmp_path):
    file = tmp_path / "keys.toml"
    slow = (("authorization", f"Bearer {keys.add(file, 'slow', role='write', calls_per_second=0.1)}"),)
    free = (("authorization", f"Bearer {keys.add(file, 'free')}"),)
    guarded = settings.model_copy(update={"keys_file": file})
    async with serving(guarded) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        for _ in range(2):  # what is left of a first call lets in a second, which is paid for afterwards
            await stub.ListItems(pb.ListItemsRequest(model="digits"), metadata=slow)
        asked = (
            (stub.ListItems, pb.ListItemsRequest(model="digits")),
            (stub.GetItem, pb.GetItemRequest(model="digits", id="x")),
            (stub.SearchItems, pb.SearchItemsRequest(model="digits", id="x")),
            (stub.DeleteItem, pb.DeleteItemRequest(model="digits", id="x")),
        )
        for method, request in asked:
            with pytest.raises(grpc.aio.AioRpcError, match=r"may make 0\.1 calls a second") as caught:
                await method(request, metadata=slow)
            reason, seconds, pushback = told(caught.value)
            assert (reason, pushback) == ("RATE_LIMITED", round(seconds * 1000))
            assert 5 < seconds <= 10.1
        await stub.ListItems(pb.ListItemsRequest(model="digits"), metadata=free)


async def test_each_message_of_a_stream_is_a_call_for_which_it_waits(settings, tmp_path):
    file = tmp_path / "keys.toml"
    key = (("authorization", f"Bearer {keys.add(file, 'slow', role='write', calls_per_second=20)}"),)
    guarded = settings.model_copy(update={"keys_file": file})
    async with serving(guarded) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        begun = asyncio.get_running_loop().time()
        requests = [pb.IngestItemsRequest(model="digits")] * 30  # a burst of 20, then 10 at the rate
        assert len([answer async for answer in stub.IngestItems(iter(requests), metadata=key)]) == 30
        assert asyncio.get_running_loop().time() - begun > 0.45


async def test_a_client_is_told_of_its_rate_at_once_where_its_deadline_would_pass_first(settings, digits, tmp_path):
    file = tmp_path / "keys.toml"
    slow = keys.add(file, "slow", images_per_second=1)
    async with (
        serving(settings.model_copy(update={"keys_file": file})) as running,
        AsyncClient(running.address, api_key=slow, timeout=10) as client,
    ):
        await client.embed(digits[:30], model="digits")
        begun = time.monotonic()
        with pytest.raises(errors.RateLimited):
            await client.embed(digits[:1], model="digits")
        assert time.monotonic() - begun < 5


async def test_a_full_disk_may_be_asked_again_once_someone_has_seen_to_it(stub, monkeypatch):
    metadata = grpc.aio.Metadata()
    words = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, metadata, metadata, "No space left on device")

    async def full(self, *args, **named):
        raise to_error(words, place="The index")

    monkeypatch.setattr(memory.Store, "get", full)
    answers = []
    for timeout in (None, 60, 10):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetItem(pb.GetItemRequest(model="digits", id="a"), timeout=timeout)
        answers.append(told(caught.value))
    assert answers == [("DISK_FULL", 30, 30_000), ("DISK_FULL", 30, 30_000), ("DISK_FULL", 30, -1)]


@pytest.mark.parametrize("letter", ["x", "%", "é", "猫", "\N{CAT FACE}"])
async def test_a_refusal_in_any_script_arrives_whole(stub, letter):
    """Where trailers are over what gRPC takes, a caller sees another status, without a reason, and may try again."""
    condition = pb.PayloadCondition(key=f"{letter * 1000}..", text="a")
    request = pb.ListItemsRequest(model="digits", filter=pb.Filter(payload=[condition]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListItems(request)
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told(error)[0] == "BAD_REQUEST"
    assert letter in error.details()
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert len(quote(error.details())) + 4 * len(details) / 3 < 8192


def test_the_largest_refusal_that_there_is_leaves_room_in_the_trailers():
    facts = {f"a fact with a name {number}": "\N{CAT FACE}" * 1000 for number in range(10)}
    made = status.of(errors.BadRequest("\N{CAT FACE}" * 1000, **facts, retry_after_seconds=1))
    assert len(quote(made.message)) + 4 * made.ByteSize() / 3 < 7680  # and half a KiB for a name of the call


def test_a_text_that_is_no_unicode_is_told_all_the_same():
    assert status.of(errors.BadRequest("\udc80", path="\udc80")).message == "?"
