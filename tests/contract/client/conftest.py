"""A gRPC peer on a real socket that answers as a test tells it to, and one way to call it for both clients."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from roost.client import AsyncClient, Client
from roost.v1 import gateway_pb2_grpc


class Peer:
    """Answers each method with the function that a test gave for it, and remembers the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[..., Any]] = {}
        self.requests: list[Any] = []
        self.target = ""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self.requests.append(request)
            return self.answers[method](request, context)

        return answer


@pytest.fixture
def peer() -> Iterator[Peer]:
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    peer = Peer()
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(peer, server)
    peer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield peer
    server.stop(None).wait()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a method of either client; what it streams comes back as a list."""

    def blocking(target: str, method: str, *args: Any, options: dict[str, Any], **kwargs: Any) -> Any:
        with Client(target, **options) as client:
            answer = getattr(client, method)(*args, **kwargs)
            return list(answer) if inspect.isgenerator(answer) else answer

    async def awaited(target: str, method: str, *args: Any, options: dict[str, Any], **kwargs: Any) -> Any:
        async with AsyncClient(target, **options) as client:
            answer = getattr(client, method)(*args, **kwargs)
            return [thing async for thing in answer] if inspect.isasyncgen(answer) else await answer

    def called(target: str, method: str, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        arguments = {"options": options or {}, **kwargs}
        if request.param == "sync":
            return blocking(target, method, *args, **arguments)
        return asyncio.run(awaited(target, method, *args, **arguments))

    return called
