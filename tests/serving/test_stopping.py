"""What signals do to a gateway that is not open yet, and to one at work, and what is left of one that cannot open."""

import asyncio
import signal
import socket
import subprocess
import sys
import time

import grpc
import pytest

from roost.errors import BadSettings
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving.server import serving

SERVE = """
import sys
from pathlib import Path
from roost_serving.server import run
from roost_serving.settings import ServeSettings
backend, store, repository = sys.argv[1:]
run(ServeSettings(backend=backend, store=store, repository=Path(repository), port=0, http_port=0))
"""


@pytest.mark.parametrize("store", ["memory://", "edge://{folder}"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_that_waits_for_triton_ends_at_once_and_cleanly(repository, tmp_path, store, number):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        backend = f"triton://127.0.0.1:{taken.getsockname()[1]}"
        arguments = [backend, store.format(folder=tmp_path / "index"), str(repository)]
        with subprocess.Popen([sys.executable, "-c", SERVE, *arguments], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert any("waiting for Triton" in line for line in process.stderr)
            process.send_signal(number)
            said = process.stderr.read()
            assert process.wait(30) == 0
    assert "stopped before it served" in said
    assert "Traceback" not in said


def test_a_gateway_that_waits_for_triton_outlives_a_call_to_reload(repository):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        arguments = [f"triton://127.0.0.1:{taken.getsockname()[1]}", "memory://", str(repository)]
        with subprocess.Popen([sys.executable, "-c", SERVE, *arguments], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert any("waiting for Triton" in line for line in process.stderr)
            process.send_signal(signal.SIGHUP)
            assert any("once it serves" in line for line in process.stderr)
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            assert process.wait(30) == 0
    assert "Traceback" not in said


async def test_where_http_cannot_listen_grpc_does_not_either(settings):
    with socket.socket() as http, socket.socket() as free:
        http.bind(("127.0.0.1", 0))
        http.listen()
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        given = settings.model_copy(update={"port": port, "http_port": http.getsockname()[1]})
        with pytest.raises(BadSettings, match="HTTP cannot listen on"):
            async with serving(given):
                pass
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


SLOW = """#!{python}
import sys
import time
from pathlib import Path
from roost.__main__ import main
from roost_serving.backends import onnx

infer = onnx.Backend.infer


def when_it_may(self, session, pixels):
    while not Path({gate!r}).exists():
        time.sleep(0.01)
    return infer(self, session, pixels)


onnx.Backend.infer = when_it_may
sys.exit(main())
"""


async def in_flight(gateway) -> None:
    """Wait until a gateway holds one image."""
    async with asyncio.timeout(30):
        while "\nroost_in_flight_images 1.0\n" not in await asyncio.to_thread(gateway.fetch, "/metrics"):  # noqa: ASYNC110 - it is only told when asked
            await asyncio.sleep(0.02)


async def ended(gateway) -> int:
    """Wait until a gateway has ended."""
    return await asyncio.to_thread(gateway.process.wait, 20)


async def test_a_call_under_way_is_finished_within_the_grace(repository, tmp_path, serve, digits):
    gate, program = tmp_path / "gate", tmp_path / "roost"
    gate.touch()  # for the images of the self-check
    program.write_text(SLOW.format(python=sys.executable, gate=str(gate)))
    program.chmod(0o755)
    arguments = ("--backend", f"onnx://{repository}", "--store", "memory://", "--grace-seconds", "60")
    with serve(*arguments, roost=program) as gateway:
        gate.unlink()
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            request = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])])
            call = asyncio.ensure_future(stub.EmbedItems(request, timeout=60))
            await in_flight(gateway)
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert gateway.process.poll() is None
            assert not call.done()
            gate.touch()
            assert len((await call).results) == 1
            assert await ended(gateway) == 0


async def test_a_stream_that_waits_for_a_store_that_hangs_is_cut_after_the_grace(
    engine_at, repository, tmp_path, serve, digits
):
    async with engine_at(tmp_path / "index") as (url, engine):
        with serve("--backend", f"onnx://{repository}", "--store", url, "--grace-seconds", "1") as gateway:
            async with grpc.aio.insecure_channel(gateway.address) as channel:
                stream = gateway_pb2_grpc.GatewayServiceStub(channel).IngestItems()
                engine.send_signal(signal.SIGSTOP)
                try:
                    await stream.write(pb.IngestItemsRequest(model="digits", item=pb.Item(image=digits[0])))
                    await in_flight(gateway)
                    gateway.process.send_signal(signal.SIGTERM)
                    begun = time.monotonic()
                    assert await ended(gateway) == 0
                    assert 1 <= time.monotonic() - begun < 6  # what Kubernetes gives it: the grace and 5 seconds
                finally:
                    engine.send_signal(signal.SIGCONT)
                code = await stream.code()
    assert code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
