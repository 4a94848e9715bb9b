"""What signals do to a gateway that is not open yet, and what is left of one that cannot open."""

import signal
import socket
import subprocess
import sys

import pytest

from roost.errors import BadSettings
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
