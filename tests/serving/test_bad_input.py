"""What callers get wrong: the exact status and reason, one ErrorInfo, and the next good call answered."""

import asyncio
import io
import urllib.request

import grpc
import numpy as np
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families as parse

from roost.v1 import gateway_pb2 as pb
from roost_serving import pages

DIM = 256


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def half(kind: str) -> bytes:
    """The first half of a picture's file."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    return whole[: len(whole) // 2]


def vector(*values: float) -> pb.Vector:
    return pb.Vector(values=np.array(values, "<f4").tobytes())


def nested(levels: int) -> struct_pb2.Struct:
    """A payload of so many objects inside each other."""
    payload = struct_pb2.Struct()
    for _ in range(levels):
        payload = struct_pb2.Struct(fields={"a": struct_pb2.Value(struct_value=payload)})
    return payload


def embed(image: bytes) -> tuple[str, object]:
    return "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=image)])


def search(**fields) -> tuple[str, object]:
    return "SearchItems", pb.SearchItemsRequest(**{"model": "digits", "id": "x"} | fields)


BAD = {
    "empty image": (*embed(b""), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "text": (*embed(b"this is no image"), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "truncated JPEG": (*embed(half("JPEG")), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "truncated PNG": (*embed(half("PNG")), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "TIFF": (*embed(encoded(Image.new("L", (8, 8)), "TIFF")), "INVALID_ARGUMENT", "BAD_IMAGE"),
    "over the byte limit": (*embed(b"\xff" * (10 * 1024 * 1024 + 1)), "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    "over the pixel limit": (*embed(encoded(Image.new("1", (8000, 8000)))), "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    "decompression bomb": (*embed(encoded(Image.new("1", (20000, 20000)))), "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    "no items": ("EmbedItems", pb.EmbedItemsRequest(model="digits"), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "item without content": (
        "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(id="a")]), "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "too many items": (
        "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=b"x")] * 257),
        "RESOURCE_EXHAUSTED", "TOO_LARGE",
    ),
    "a long id": (
        "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(id="a" * 257, image=b"x")]),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "unknown model": (*search(model="birds"), "NOT_FOUND", "UNKNOWN_MODEL"),
    "unknown version": (*search(model="digits@7"), "NOT_FOUND", "UNKNOWN_MODEL"),
    "path as a model": (*search(model="../../etc/passwd"), "NOT_FOUND", "UNKNOWN_MODEL"),
    "no model among two": (*search(model=""), "NOT_FOUND", "UNKNOWN_MODEL"),
    "no query": ("SearchItems", pb.SearchItemsRequest(model="digits"), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "unknown id": (*search(id="nobody"), "NOT_FOUND", "UNKNOWN_ITEM"),
    "empty id": ("GetItem", pb.GetItemRequest(model="digits"), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "delete what is not there": (
        "DeleteItem", pb.DeleteItemRequest(model="digits", id="nobody"), "NOT_FOUND", "UNKNOWN_ITEM",
    ),
    "short vector": (*search(vector=vector(1, 2, 3)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "half a float": (*search(vector=pb.Vector(values=b"abcde")), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "NaN": (*search(vector=vector(*[float("nan")] * DIM)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "infinity": (*search(vector=vector(*[float("inf")] * DIM)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "zeros": (*search(vector=vector(*[0.0] * DIM)), "INVALID_ARGUMENT", "BAD_VECTOR"),
    "negative limit": (*search(vector=vector(*[1.0] * DIM), limit=-1), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "huge limit": (*search(vector=vector(*[1.0] * DIM), limit=10**6), "INVALID_ARGUMENT", "BAD_REQUEST"),
    "condition without a match": (
        *search(vector=vector(*[1.0] * DIM), filter=pb.Filter(payload=[pb.PayloadCondition(key="a")])),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "range to NaN": (
        *search(
            vector=vector(*[1.0] * DIM),
            filter=pb.Filter(payload=[pb.PayloadCondition(key="a", range=pb.Range(min=float("nan")))]),
        ),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "items and vectors": (
        "AssignClusters",
        pb.AssignClustersRequest(model="digits", items=[pb.Item(image=b"x")], vectors=[vector(*[1.0] * DIM)]),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "neither items nor vectors": (
        "AssignClusters", pb.AssignClustersRequest(model="digits"), "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "clusters that were never fitted": (
        "ListClusters", pb.ListClustersRequest(model="plain"), "FAILED_PRECONDITION", "NO_CLUSTERS",
    ),
    "foreign page token": (
        "ListItems", pb.ListItemsRequest(model="digits", page_token="bm90IG91cnMgYXQgYWxs"),
        "INVALID_ARGUMENT", "BAD_PAGE_TOKEN",
    ),
    "page token that is no base64": (
        "ListModels", pb.ListModelsRequest(page_token="§§§"), "INVALID_ARGUMENT", "BAD_PAGE_TOKEN",
    ),
    "crafted page token of a list in memory": (
        "ListModels", pb.ListModelsRequest(page_token=pages.token("abc", scope="models")),
        "INVALID_ARGUMENT", "BAD_PAGE_TOKEN",
    ),
    "crafted page token of stored items": (
        "ListItems", pb.ListItemsRequest(model="digits", page_token=pages.token("[1]", scope="items digits@1 ")),
        "INVALID_ARGUMENT", "BAD_PAGE_TOKEN",
    ),
    "deep payload": (
        "EmbedItems", pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=b"x", payload=nested(17))]),
        "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
    "negative page": (
        "ListItems", pb.ListItemsRequest(model="digits", page_size=-5), "INVALID_ARGUMENT", "BAD_REQUEST",
    ),
}  # fmt: skip


async def samples(gateway, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """A metric's values by their labels."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{gateway.http_address}/metrics", timeout=5) as answer:
            return answer.read().decode()

    families = parse(await asyncio.to_thread(fetch))
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def reason_of(error: grpc.RpcError) -> str:
    details = rpc_status.from_call(error).details
    infos = [detail for detail in details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "roost"
    return info.reason


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_gets_its_status_and_the_next_call_is_answered(stub, digits, case):
    method, request, code, reason = BAD[case]
    with pytest.raises(grpc.RpcError) as caught:
        await getattr(stub, method)(request)
    assert (caught.value.code().name, reason_of(caught.value)) == (code, reason)
    assert len(caught.value.details()) > 20
    good = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])]))
    assert len(good.results) == 1


BAD_INGESTS = {
    "no id": (pb.Item(), vector(*[1.0] * DIM), "BAD_REQUEST"),
    "an image too": (pb.Item(id="a", image=b"x"), vector(*[1.0] * DIM), "BAD_REQUEST"),
    "short": (pb.Item(id="a"), vector(1.0), "BAD_VECTOR"),
    "empty": (pb.Item(id="a"), vector(), "BAD_VECTOR"),
    "half a float": (pb.Item(id="a"), pb.Vector(values=b"abcde"), "BAD_VECTOR"),
    "NaN": (pb.Item(id="a"), vector(*[float("nan")] * DIM), "BAD_VECTOR"),
    "zeros": (pb.Item(id="a"), vector(*[0.0] * DIM), "BAD_VECTOR"),
    "long id": (pb.Item(id="a" * 257), vector(*[1.0] * DIM), "BAD_REQUEST"),
}


async def test_of_items_that_come_with_vectors_only_the_bad_ones_fail(stub, gateway):
    good = pb.IngestItemsRequest(model="digits", item=pb.Item(id="good"), vector=vector(*[2.0] * DIM))
    bad = [pb.IngestItemsRequest(model="digits", item=item, vector=given) for item, given, _ in BAD_INGESTS.values()]
    answers = [answer async for answer in stub.IngestItems(iter([*bad, good]))]
    reasons = []
    for answer in answers[:-1]:
        info = error_details_pb2.ErrorInfo()
        assert answer.error.details[0].Unpack(info)
        reasons.append(info.reason)
    assert reasons == [reason for _, _, reason in BAD_INGESTS.values()]
    assert answers[-1].outcome == pb.INGEST_OUTCOME_STORED
    stored = (await stub.GetItem(pb.GetItemRequest(model="digits", id="good"))).item
    assert np.linalg.norm(np.frombuffer(stored.vector.values, "<f4")) == pytest.approx(1)
    assert stored.placement.cluster >= 0
    images = await samples(gateway, "roost_images_total")
    assert images[(("model", "digits@1"), ("result", "ok"))] == 0  # nothing was embedded


@pytest.mark.parametrize("poison", [b"", b"no image", half("JPEG"), half("PNG"), encoded(Image.new("1", (8000, 8000)))])
async def test_of_many_calls_at_once_only_the_bad_one_fails(stub, digits, poison):
    images = [*digits[:16], poison, *digits[16:31]]
    calls = [stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=image)])) for image in images]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failed = [place for place, answer in enumerate(answers) if isinstance(answer, grpc.RpcError)]
    assert failed == [16]
    alone = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=i) for i in digits[:31]]))
    good = [answer.results[0].vector.values for answer in answers if not isinstance(answer, grpc.RpcError)]
    assert good == [result.vector.values for result in alone.results]


async def test_refused_items_of_a_stream_are_counted(stub, gateway):
    large = pb.IngestItemsRequest(model="digits", item=pb.Item(image=b"\xff" * (10 * 1024 * 1024 + 1)))
    answers = [answer async for answer in stub.IngestItems(iter([large, large]))]
    assert [answer.outcome for answer in answers] == [pb.INGEST_OUTCOME_FAILED] * 2
    assert (await samples(gateway, "roost_refused_total"))[(("reason", "TOO_LARGE"),)] == 2


async def test_a_message_that_cannot_be_parsed_is_a_bad_request(gateway):
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        call = channel.unary_unary("/roost.v1.GatewayService/EmbedItems")
        with pytest.raises(grpc.RpcError) as caught:
            await call(b"\xff\xff\xff")
    assert (caught.value.code().name, reason_of(caught.value)) == ("INVALID_ARGUMENT", "BAD_REQUEST")


async def test_a_page_token_of_another_filter_is_foreign(stub, digits):
    requests = [pb.IngestItemsRequest(model="digits", item=pb.Item(image=image)) for image in digits[:5]]
    async for _ in stub.IngestItems(iter(requests)):
        pass
    page = await stub.ListItems(pb.ListItemsRequest(model="digits", page_size=2))
    other = pb.ListItemsRequest(model="plain", page_size=2, page_token=page.next_page_token)
    with pytest.raises(grpc.RpcError) as caught:
        await stub.ListItems(other)
    assert reason_of(caught.value) == "BAD_PAGE_TOKEN"


async def test_a_call_whose_deadline_passes_is_ended_by_the_gateway_too(gateway, stub):
    slow = encoded(Image.new("L", (3000, 3000)))  # few bytes, and many seconds for all of them
    items = [pb.Item(image=slow)] * 256
    with pytest.raises(grpc.RpcError) as caught:
        await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        while not (ended := await samples(gateway, "grpc_server_handled_total")):
            pass
    ((labels, count),) = ended.items()
    assert dict(labels)["grpc_code"] in {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert count == 1
    assert await samples(gateway, "roost_in_flight_images") == {(): 0}
    assert sum((await samples(gateway, "roost_stage_seconds_count")).values()) == 0
    assert (await samples(gateway, "roost_images_total"))[(("model", "digits@1"), ("result", "error"))] == 256
