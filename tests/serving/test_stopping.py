"""What SIGTERM and Ctrl-C do to a gateway that is not open yet."""

import signal
import socket
import subprocess
import sys

import pytest

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
