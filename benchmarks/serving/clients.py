"""How each contender is asked for an image's embedding, at the least cost to the caller.

Requests are made ready before the clock runs, and answers are not taken apart: the load generator shares the cores with
what it measures. HTTP callers have a connection each; gRPC's share one, as gRPC means it.
"""

import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as v2

from roost import preprocess
from roost.v1 import gateway_pb2 as pb

MAX_BYTES = 64 * 1024 * 1024
FLOAT32 = np.dtype("<f4")

Call = Callable[[bytes], Awaitable[bytes]]
"""Sends a request's bytes and returns the answer's."""


class Http:
    """A file's bytes in the body, float32 bytes in the answer."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}/embed"

    def request(self, image: bytes) -> bytes:
        return image

    def vector(self, answer: bytes) -> np.ndarray:
        return np.frombuffer(answer, FLOAT32)

    @asynccontextmanager
    async def connect(self):
        """A call on as many connections as there are callers."""
        headers = {"Content-Type": "image/jpeg"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers, raise_for_status=True) as session:

            async def call(image: bytes) -> bytes:
                async with session.post(self.url, data=image) as answer:
                    return await answer.read()

            yield call


class Roost:
    """`EmbedItems` with one item."""

    METHOD = "/roost.v1.GatewayService/EmbedItems"

    def __init__(self, address: str) -> None:
        self.address = address

    def request(self, image: bytes) -> bytes:
        return pb.EmbedItemsRequest(items=[pb.Item(image=image)]).SerializeToString()

    def vector(self, answer: bytes) -> np.ndarray:
        return np.frombuffer(pb.EmbedItemsResponse.FromString(answer).results[0].vector.values, FLOAT32)

    def connect(self) -> AbstractAsyncContextManager[Call]:
        """A call on one channel."""
        return _channel(self.address, self.METHOD)


class V2:
    """`ModelInfer` of the protocol that Triton, KServe and MLServer share, with one file as a raw BYTES tensor."""

    METHOD = "/inference.GRPCInferenceService/ModelInfer"

    def __init__(self, address: str, *, model: str) -> None:
        self.address, self.model = address, model

    def request(self, image: bytes) -> bytes:
        return self._infer(struct.pack("<I", len(image)) + image, datatype="BYTES", shape=[1])

    def vector(self, answer: bytes) -> np.ndarray:
        response = v2.ModelInferResponse.FromString(answer)  # pyright: ignore[reportAttributeAccessIssue]
        return np.frombuffer(response.raw_output_contents[0], FLOAT32)

    def connect(self) -> AbstractAsyncContextManager[Call]:
        """A call on one channel."""
        return _channel(self.address, self.METHOD)

    def _infer(self, content: bytes, *, datatype: str, shape: Sequence[int]) -> bytes:
        request: Any = v2.ModelInferRequest(model_name=self.model)  # pyright: ignore[reportAttributeAccessIssue]
        request.inputs.add(name="image", datatype=datatype, shape=shape)
        request.raw_input_contents.append(content)
        return request.SerializeToString()


class V2Batched(V2):
    """The same for Triton, whose models have a batch's axis."""

    def request(self, image: bytes) -> bytes:
        return self._infer(struct.pack("<I", len(image)) + image, datatype="BYTES", shape=[1, 1])


class V2Pixels(V2):
    """Pixels that were decoded beforehand, as a uint8 tensor."""

    def __init__(self, address: str, *, model: str, size: int, resize: int) -> None:
        super().__init__(address, model=model)
        self.size, self.resize = size, resize

    def request(self, image: bytes) -> bytes:
        pixels = preprocess.decode(image, size=self.size, resize=self.resize)
        return self._infer(pixels.tobytes(), datatype="UINT8", shape=[1, *pixels.shape])


@asynccontextmanager
async def _channel(address: str, method: str):
    options = [("grpc.max_send_message_length", MAX_BYTES), ("grpc.max_receive_message_length", MAX_BYTES)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel.unary_unary(method)  # without a serialiser: bytes go out and in as they are


Client = Http | Roost | V2


def client(protocol: str, *, address: str, model: str, size: int, resize: int) -> Client:
    """The client of a protocol by its name: http, roost, v2, v2-batched or v2-pixels."""
    match protocol:
        case "http":
            return Http(address)
        case "roost":
            return Roost(address)
        case "v2":
            return V2(address, model=model)
        case "v2-batched":
            return V2Batched(address, model=model)
        case "v2-pixels":
            return V2Pixels(address, model=model, size=size, resize=resize)
    raise ValueError(f"No protocol called {protocol!r}.")
