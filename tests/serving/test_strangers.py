"""Calls without a key cost next to nothing: they are refused before their message is read."""

import asyncio
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import keys
from roost_serving.server import serving

CONNECTIONS, CALLS, CALL_BYTES = 2, 100, 8 * 2**20
MOST_GROWTH = 100 * 2**20
"""An eighth of what is sent."""


def peak(pid: int) -> int:
    """The most that a process held since `forget_peak`, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def test_many_large_calls_without_a_key_take_no_memory(serve, repository, tmp_path):
    file = tmp_path / "keys.toml"
    keys.add(file, "webshop")
    arguments = ("--backend", f"onnx://{repository}", "--store", "memory://", "--keys-file", str(file))
    with serve(*arguments) as running:
        request = pb.EmbedItemsRequest(items=[pb.Item(image=bytes(CALL_BYTES))])
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(running.address, options) for _ in range(CONNECTIONS)]
        for channel in channels:
            await channel.channel_ready()
        forget_peak(running.process.pid)
        before = peak(running.process.pid)
        calls = [gateway_pb2_grpc.GatewayServiceStub(channel).EmbedItems for channel in channels] * (
            CALLS // CONNECTIONS
        )
        answers = await asyncio.gather(*[call(request) for call in calls], return_exceptions=True)
        grown = peak(running.process.pid) - before
        print(f"{CALLS} calls of {CALL_BYTES} bytes: {grown / 2**20:.1f} MiB")  # noqa: T201
        for channel in channels:
            await channel.close()
        assert {reason(answer) for answer in answers} == {"UNAUTHENTICATED"}
        assert grown <= MOST_GROWTH
        assert running.stop() == 0


async def test_a_stranger_is_refused_though_no_message_comes(settings, tmp_path):
    file = tmp_path / "keys.toml"
    keys.add(file, "webshop")
    async with (
        serving(settings.model_copy(update={"keys_file": file})) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        call = channel.stream_unary("/roost.v1.GatewayService/EmbedItems")()  # which never sends one
        assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.UNAUTHENTICATED
        assert {"x-request-id", "grpc-status-details-bin"} <= set(dict(await call.trailing_metadata()))


async def test_a_call_without_a_message_is_a_bad_request(gateway):
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        call = channel.stream_unary("/roost.v1.GatewayService/EmbedItems")(iter(()))
        assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_key_with_a_stray_byte_does_not_reach_the_log(serve, repository, tmp_path):
    file = tmp_path / "keys.toml"
    key = keys.add(file, "webshop")
    arguments = ("--backend", f"onnx://{repository}", "--store", "memory://", "--keys-file", str(file))
    with serve(*arguments) as running:
        answer = await call_by_hand(running.address, f"Bearer {key}".encode() + b"\xff")
        assert b"grpc-status\x0216" in answer  # UNAUTHENTICATED
        assert running.stop() == 0
        said = running.process.stderr.read()
    assert "draining" in said
    assert key not in said
    assert "Traceback" not in said


async def call_by_hand(address: str, authorization: bytes) -> bytes:
    """What a gateway sends to a call's headers, which no client of gRPC's would send: frames of HTTP/2."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/roost.v1.GatewayService/ListModels",
        b":authority": b"gateway",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"authorization": authorization,
    }
    packed = b"".join(b"\0" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in headers.items())
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, packed))
    answer = b""
    async with asyncio.timeout(30):
        while b"grpc-status" not in answer or not answer.partition(b"grpc-status")[2]:
            answer += await reader.read(4096)
    writer.close()
    return answer


def reason(error: object) -> str:
    assert isinstance(error, grpc.aio.AioRpcError)
    info = error_details_pb2.ErrorInfo()
    (detail,) = rpc_status.from_call(error).details
    detail.Unpack(info)
    return info.reason
