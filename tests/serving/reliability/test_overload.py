"""Four times what the gateway can do: it goes on doing all it can, and says no at once to the rest."""

import asyncio

import grpc
import pytest

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_export.export import export

IMAGES = {"resnet10w32": 32, "resnet18": 8}
"""In each call, so that making calls costs little beside answering them."""
RAW = [("grpc.enable_retries", 0), ("grpc.service_config_disable_resolution", 1)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("encoder", IMAGES)
async def test_overload(  # noqa: PLR0917
    encoder, serve, make_run, tmp_path, digits, soak, figures, open_loop, closed_loop, memory
):
    """A small encoder, which leaves the gateway little time beside the calls' own cost, and one of an ordinary size."""
    if encoder == "resnet18" and not soak:
        pytest.skip("a capacity of a few calls a second says nothing in two")
    seconds, images = 60.0 if soak else 2.0, IMAGES[encoder]
    export(make_run(tmp_path / "run" / "flood", encoder=encoder, size=32), repository=tmp_path / "models")
    request = pb.EmbedItemsRequest(model="flood", items=[pb.Item(image=image) for image in digits[:images]])
    with serve("--backend", f"onnx://{tmp_path / 'models'}", "--store", "memory://") as gateway:
        async with grpc.aio.insecure_channel(gateway.address, options=RAW) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)

            async def call() -> None:
                answer = await stub.EmbedItems(request, timeout=30)
                assert len(answer.results) == images

            await closed_loop(call, callers=4, seconds=1)
            capacity = await closed_loop(call, callers=8, seconds=max(2.0, seconds / 6))
            normal = await open_loop(call, rate=capacity / 2, seconds=max(2.0, seconds / 6))
            full = await open_loop(call, rate=capacity, seconds=seconds)
            before = memory(gateway.process.pid)
            storm = await open_loop(call, rate=4 * capacity, seconds=seconds)
            grown = memory(gateway.process.pid) - before
            await asyncio.sleep(2)
            after = await open_loop(call, rate=capacity / 2, seconds=max(2.0, seconds / 6))
            await call()  # whatever happened, it answers
    figures |= {
        "capacity_calls_per_second": capacity,
        "goodput_at_1": full.goodput,
        "goodput_at_4": storm.goodput,
        "goodput_ratio": storm.goodput / full.goodput,
        "refused_p99_ms": 1e3 * sorted(storm.refused)[int(0.99 * len(storm.refused))],
        "refused_slowest_ms": 1e3 * max(storm.refused),
        "normal_p99_ms": 1e3 * normal.percentile(0.99),
        "p99_ms_2_s_after": 1e3 * after.percentile(0.99),
        "memory_grown_mb": grown / 1e6,
    }
    assert set(storm.codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert set(normal.codes) == set(after.codes) == {"OK"}
    assert storm.codes["OK"] > 0
    assert grown < 100e6
    if soak:
        assert figures["goodput_ratio"] >= 0.9
        assert figures["refused_slowest_ms"] <= 50
        assert figures["p99_ms_2_s_after"] <= 1.5 * figures["normal_p99_ms"]
