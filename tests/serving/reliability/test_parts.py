"""The gateway while Triton or the store is stopped, killed, and back again."""

import asyncio
import re
import signal
import time

import grpc
import pytest

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc

RAW = [("grpc.enable_retries", 0)]
DEADLINE = 1.0
LATE = 0.1
ENGINE = "roost_serving.edge"


@pytest.fixture
async def stub_of():
    """A stub without retries on a gateway."""
    channels = []

    def make(gateway) -> gateway_pb2_grpc.GatewayServiceStub:
        channels.append(grpc.aio.insecure_channel(gateway.address, options=RAW))
        return gateway_pb2_grpc.GatewayServiceStub(channels[-1])

    yield make
    for channel in channels:
        await channel.close()


async def in_flight(gateway) -> float:
    text = await asyncio.to_thread(gateway.fetch, "/metrics")
    return float(re.search(r"^roost_in_flight_images (\S+)", text, re.MULTILINE)[1])


async def answered(call, *, seconds: float = 60) -> None:
    """Wait until a call succeeds."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await call()
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)


@pytest.mark.timeout(300)
async def test_triton(start_triton, triton_repository, serve, digits, soak, figures, open_loop, stub_of):  # noqa: PLR0917
    server = start_triton(triton_repository)
    stopped, rate = (10.0, 50.0) if soak else (2.0, 20.0)
    arguments = ("--backend", server.url, "--repository", str(triton_repository), "--store", "memory://")
    with serve(*arguments) as gateway:
        stub = stub_of(gateway)
        request = pb.EmbedItemsRequest(model="small", items=[pb.Item(image=digits[0])])

        async def call() -> None:
            await stub.EmbedItems(request, timeout=DEADLINE)

        await answered(call)
        server.process.send_signal(signal.SIGSTOP)
        try:
            hung = await open_loop(call, rate=rate, seconds=stopped)
        finally:
            server.process.send_signal(signal.SIGCONT)
        await answered(call)
        assert await in_flight(gateway) == 0
        server.process.kill()
        server.process.wait()
        dead = await open_loop(call, rate=rate, seconds=2)
        start_triton(triton_repository, "--grpc-port", server.url.rpartition(":")[2])
        await answered(call)
        back = await open_loop(call, rate=rate, seconds=1)
        assert await in_flight(gateway) == 0
        assert gateway.stop() == 0
    slowest = max(hung.refused + dead.refused)
    figures |= {"stopped": hung.codes, "killed": dead.codes, "slowest_s": slowest, "back": back.codes}
    assert set(hung.codes) | set(dead.codes) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "OK"}
    assert "OK" not in dead.codes
    assert set(back.codes) == {"OK"}
    if soak:
        assert slowest <= DEADLINE + LATE


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_store(engine_at, repository, tmp_path, serve, digits, soak, figures, open_loop, stub_of, fault):  # noqa: PLR0917
    async with engine_at(tmp_path / "index") as (url, process):
        with serve("--backend", f"onnx://{repository}", "--store", url) as gateway:
            stub = stub_of(gateway)
            item = pb.Item(image=digits[0])

            async def embed() -> None:
                await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[item]), timeout=30)

            async def search() -> None:
                await stub.SearchItems(pb.SearchItemsRequest(model="digits", item=item), timeout=30)

            await search()
            process.send_signal(fault)
            begun = time.monotonic()
            try:
                embedded, searched = await asyncio.gather(
                    open_loop(embed, rate=20, seconds=8), open_loop(search, rate=5, seconds=8)
                )
                took = time.monotonic() - begun
                again = await open_loop(search, rate=5, seconds=1)
            finally:
                if fault == signal.SIGSTOP:
                    process.send_signal(signal.SIGCONT)
            if fault == signal.SIGSTOP:
                await answered(search)
    figures |= {"embed": embedded.codes, "search": searched.codes, "slowest_s": max(searched.refused)}
    assert set(embedded.codes) == {"OK"}
    assert set(searched.codes) == set(again.codes) == {"UNAVAILABLE"}
    assert took < 20  # nobody waited for the 30 seconds of his deadline
    assert max(again.refused) < 1
    if soak:
        assert max(searched.refused) < 1
