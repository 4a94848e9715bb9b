"""How soon the gateway is ready after its start, and what it weighs.

    python benchmarks/startup.py model_repository [--store edge|memory] [--runs 5] [--json]

Starts `roost serve` over a model repository on loopback again and again, with an empty embedded store each time, and
stops the clock when `/readyz` answers 200.
"""

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

TOO_LONG_SECONDS = 60


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How soon the gateway is ready, and what it weighs.")
    parser.add_argument("repository", type=Path)
    parser.add_argument("--store", choices=("edge", "memory"), default="edge")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = [start(options.repository, options.store) for _ in range(options.runs)]
    figures = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:24} {value:8.2f}" for name, value in figures.items()))


def start(repository: Path, store: str) -> dict[str, float]:
    """One start: seconds until ready, CPU seconds until then, and resident memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        url = f"edge://{folder}/index" if store == "edge" else "memory://"
        command = [
            Path(sys.executable).with_name("roost"), "serve", "--backend", f"onnx://{repository}", "--store", url,
            "--port", "0", "--http-port", str(port),
        ]  # fmt: skip
        begun = time.monotonic()
        gateway = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_ready(port, gateway)
            ready = time.monotonic() - begun
            process = Path(f"/proc/{gateway.pid}")
            ticks = process.joinpath("stat").read_text().rsplit(")", 1)[1].split()[11:13]
            pages = int(process.joinpath("statm").read_text().split()[1])
            cpu = sum(map(int, ticks)) / 100
            return {"ready_seconds": ready, "cpu_seconds": cpu, "resident_mebibytes": pages * 4 / 1024}
        finally:
            gateway.send_signal(signal.SIGTERM)
            gateway.wait()


def wait_ready(port: int, gateway: subprocess.Popen[bytes]) -> None:
    """Return once `/readyz` answers 200."""
    begun = time.monotonic()
    while time.monotonic() - begun < TOO_LONG_SECONDS and gateway.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.005)
    sys.exit("The gateway did not become ready.")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
