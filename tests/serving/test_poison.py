"""One bad item among 32 at the same time: it fails, and the 31 beside it get the answers that they deserve."""

import asyncio
import io

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from roost.v1 import gateway_pb2 as pb

PLACE = 16


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


POISONS = {
    "nothing": (b"", "BAD_IMAGE"),
    "text": (b"no image", "BAD_IMAGE"),
    "half a picture": (png(Image.effect_noise((64, 64), 64))[:900], "BAD_IMAGE"),
    "too many pixels": (png(Image.new("1", (8000, 8000))), "TOO_LARGE"),
    "too many bytes": (b"\xff" * (10 * 1024 * 1024 + 1), "TOO_LARGE"),
}
each = pytest.mark.parametrize("poison", POISONS)


@pytest.fixture
def items(digits, poison) -> list[pb.Item]:
    """31 digits, with a poison among them."""
    images = [*digits[:PLACE], POISONS[poison][0], *digits[PLACE:31]]
    return [pb.Item(image=image, id=str(number)) for number, image in enumerate(images)]


@pytest.fixture
async def alone(stub, digits) -> np.ndarray:
    """The embeddings of the good ones without the bad one, shape (31, dim)."""
    good = [pb.Item(image=image) for image in digits[:31]]
    answer = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=good))
    return matrix(result.vector for result in answer.results)


def matrix(vectors) -> np.ndarray:
    return np.stack([np.frombuffer(vector.values, "<f4") for vector in vectors])


def reason(status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


@each
async def test_of_32_calls_the_bad_one_fails(stub, items, alone, poison):
    calls = [stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[item])) for item in items]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failed = {n: reason(rpc_status.from_call(e)) for n, e in enumerate(answers) if isinstance(e, grpc.RpcError)}
    assert failed == {PLACE: POISONS[poison][1]}
    good = matrix(answer.results[0].vector for answer in answers if isinstance(answer, pb.EmbedItemsResponse))
    assert np.array_equal(good, alone)


@each
async def test_of_32_items_of_one_call_the_bad_one_fails(stub, items, alone, poison):
    answer = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items, allow_partial=True))
    failed = {n: reason(result.error) for n, result in enumerate(answer.results) if result.HasField("error")}
    assert failed == {PLACE: POISONS[poison][1]}
    assert np.array_equal(matrix(result.vector for result in answer.results if result.HasField("vector")), alone)


@each
async def test_of_32_items_of_a_stream_the_bad_one_fails(stub, items, alone, poison):
    requests = [pb.IngestItemsRequest(model="digits", item=item) for item in items]
    answers = [answer async for answer in stub.IngestItems(iter(requests))]
    failed = {n: reason(a.error) for n, a in enumerate(answers) if a.outcome == pb.INGEST_OUTCOME_FAILED}
    assert failed == {PLACE: POISONS[poison][1]}
    good = [answer.id for answer in answers if answer.outcome == pb.INGEST_OUTCOME_STORED]
    assert good == [str(number) for number in range(32) if number != PLACE]
    stored = [await stub.GetItem(pb.GetItemRequest(model="digits", id=name)) for name in good]
    assert np.allclose(
        matrix(answer.item.vector for answer in stored), alone, atol=1e-6
    )  # the store scales to unit length itself
