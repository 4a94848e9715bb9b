"""A call that its caller cancels: it is given up wherever it is, and costs nothing from then on."""

import asyncio
import re
import threading
import urllib.request

import grpc
import numpy as np
import pytest

from roost.v1 import gateway_pb2 as pb
from roost_serving.backends import onnx
from roost_serving.backends._local import MOST
from roost_serving.server import serving


class Held:
    """Lets the real model work when it may, and counts the images that it was given."""

    def __init__(self) -> None:
        self.images = 0
        self.begun, self.gate = threading.Event(), threading.Event()

    def hold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        infer = onnx.Backend.infer

        def held(backend, session, pixels: np.ndarray) -> np.ndarray:
            self.images += len(pixels)
            self.begun.set()
            assert self.gate.wait(60)
            return infer(backend, session, pixels)

        monkeypatch.setattr(onnx.Backend, "infer", held)


@pytest.fixture
async def gateway(settings):
    async with serving(settings.model_copy(update={"workers": 1})) as running:
        yield running


@pytest.fixture
async def held(gateway, monkeypatch):
    """From now on the only worker waits at its first images until the gate is opened."""
    held = Held()
    held.hold(monkeypatch)
    yield held
    held.gate.set()


async def in_flight(gateway) -> tuple[float, float]:
    """Images and bytes, as the metrics tell."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{gateway.http_address}/metrics", timeout=10) as answer:
            return answer.read().decode()

    text = await asyncio.to_thread(fetch)
    images, size = (re.search(rf"^roost_in_flight_{what} (\S+)$", text, re.MULTILINE) for what in ("images", "bytes"))
    return float(images[1]), float(size[1])


async def free(gateway) -> None:
    """Wait until nothing is in flight."""
    async with asyncio.timeout(20):
        while await in_flight(gateway) != (0, 0):  # noqa: ASYNC110 - it is only told when asked
            await asyncio.sleep(0.02)


async def cancelled(gateway, call) -> None:
    """Cancel a call that is under way, and wait until nothing is in flight."""
    assert min(await in_flight(gateway)) > 0
    call.cancel()
    await free(gateway)


async def test_a_cancelled_call_is_not_in_flight_and_its_images_reach_no_model(gateway, stub, held, digits):
    items = [pb.Item(image=image) for image in digits[:100]]
    call = stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items))
    await asyncio.to_thread(held.begun.wait, 20)
    await cancelled(gateway, call)
    assert not held.gate.is_set()  # the worker is at it still
    held.gate.set()
    answer = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items[:1]))
    assert len(answer.results) == 1
    assert held.images <= MOST + 1  # what the worker had taken, and the one that followed


async def test_of_a_cancelled_stream_nothing_more_is_embedded_or_stored(gateway, stub, held, digits):
    requests = [pb.IngestItemsRequest(model="digits", item=pb.Item(image=image)) for image in digits[:60]]
    call = stub.IngestItems(iter(requests))
    await asyncio.to_thread(held.begun.wait, 20)
    await cancelled(gateway, call)
    held.gate.set()
    await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])]))
    assert held.images <= MOST + 1
    assert not (await stub.ListItems(pb.ListItemsRequest(model="digits"))).items


async def test_a_call_whose_deadline_passes_is_given_up_likewise(gateway, stub, held, digits):
    items = [pb.Item(image=image) for image in digits[:100]]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await free(gateway)
    held.gate.set()
    await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items[:1]))
    assert held.images <= MOST + 1
