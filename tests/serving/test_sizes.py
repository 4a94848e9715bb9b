"""What is too large or too much: a message, an image of a stream, an answer."""

import grpc
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving.server import serving

PAYLOAD = struct_pb2.Struct(fields={"text": struct_pb2.Value(string_value="x" * 60_000)})


@pytest.fixture
async def small(settings, digits):
    """A gateway with messages of at most 512 KiB, so answers of 256 KiB, that stores ten items of 60 kB."""
    settings = settings.model_copy(update={"max_message_bytes": 2**19, "max_image_bytes": 2**16})
    async with serving(settings) as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        requests = [
            pb.IngestItemsRequest(model="digits", item=pb.Item(id=str(n), image=image, payload=PAYLOAD))
            for n, image in enumerate(digits[:10])
        ]
        outcomes = [answer.outcome async for answer in stub.IngestItems(iter(requests))]
        assert outcomes == [pb.INGEST_OUTCOME_STORED] * 10
        yield stub


async def test_a_list_is_cut_where_an_answer_is_full(small):
    sizes, seen, token = [], set(), ""
    while token or not sizes:
        page = await small.ListItems(pb.ListItemsRequest(model="digits", page_size=1000, page_token=token))
        sizes.append(len(page.items))
        seen |= {item.id for item in page.items}
        token = page.next_page_token
    assert sizes == [4, 4, 2]
    assert seen == {str(number) for number in range(10)}


async def test_a_search_whose_answer_has_no_room_says_what_to_do(small):
    with pytest.raises(grpc.RpcError) as caught:
        await small.SearchItems(pb.SearchItemsRequest(model="digits", id="0", limit=5))
    (detail,) = rpc_status.from_call(caught.value).details
    info = error_details_pb2.ErrorInfo()
    detail.Unpack(info)
    assert (info.reason, info.metadata["fitting"]) == ("TOO_LARGE", "4")
    assert "Ask for fewer" in caught.value.details()
    found = await small.SearchItems(pb.SearchItemsRequest(model="digits", id="0", limit=4))
    assert len(found.hits) == 4


async def test_a_large_image_of_a_stream_fails_before_it_waits_for_room(small, digits, monkeypatch):
    monkeypatch.setattr("roost_serving.admission.Admission.enter", None)
    requests = [pb.IngestItemsRequest(model="digits", item=pb.Item(image=b"\xff" * (2**16 + 1)))]
    (answer,) = [answer async for answer in small.IngestItems(iter(requests))]
    assert answer.outcome == pb.INGEST_OUTCOME_FAILED
    assert answer.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def test_a_request_over_the_limit_is_refused_by_grpc(small):
    with pytest.raises(grpc.RpcError) as caught:
        await small.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=bytes(2**19))]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc_status.from_call(caught.value) is None
