"""Start a Triton server on this machine, without a container: `.triton/bin/python deploy/triton/run.py REPOSITORY`.

The environment whose Python runs this, made by `make triton` from requirements/triton.txt, carries the server. It has
Triton's Python backend only: export with `--backend python`. The server listens on loopback; the one line on stdout is
the URL for `roost serve --backend`, and then this process is the server.
"""

import argparse
import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

STUB = "triton_python_backend_stub"


def main() -> None:
    """Replace this process with the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="the model repository that `roost export` wrote")
    parser.add_argument("--grpc-port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--metrics-port", type=int, help="serve Triton's own metrics there; off by default")
    parser.add_argument(
        "--model-control-mode",
        choices=["explicit", "none"],
        default="explicit",
        help="explicit, the default, loads a model when it is asked for; none loads all at the start",
    )
    arguments = parser.parse_args()
    if not arguments.repository.is_dir():
        parser.error(f"{arguments.repository} is no folder; write it with `roost export --backend python`")
    root = Path(sysconfig.get_path("purelib"), "pytriton", "tritonserver")
    server = root / "bin" / "tritonserver"
    if not server.is_file():
        parser.error(f"{sys.executable} has no {server.name}; run `make triton`, then use .triton/bin/python")
    environment = os.environ | {
        # The stub takes the packages of the first python3 on PATH; PYTHONPATH means nothing to it.
        "PATH": f"{Path(sys.prefix, 'bin')}:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": f"{sysconfig.get_config_var('LIBDIR')}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
    }
    check_loads(link_stub(root), environment)
    port = arguments.grpc_port or free_port()
    command = [
        str(server),
        f"--model-repository={arguments.repository.resolve()}",
        f"--model-control-mode={arguments.model_control_mode}",
        f"--backend-directory={root / 'backends'}",
        # What a killed server leaves in /dev/shm can be told by its process id, and removed.
        f"--backend-config=python,shm-region-prefix-name=roost_triton_{os.getpid()}_",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=5",  # a Python process that died is waited for as long as this
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--allow-http=false",
    ]
    if arguments.metrics_port is None:
        command += ["--allow-metrics=false"]
    else:
        command += ["--metrics-address=127.0.0.1", f"--metrics-port={arguments.metrics_port}"]
    sys.stdout.write(f"triton://127.0.0.1:{port}\n")
    sys.stdout.flush()
    os.execve(server, command, environment)  # noqa: S606 - a signal to this process must be one to the server


def link_stub(root: Path) -> Path:
    """Put the Python backend's stub for this interpreter where the server looks for it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / STUB
    if not stub.is_file():
        sys.exit(f"This Triton has no Python backend for Python {version}. Make .triton with another Python.")
    place = root / "backends" / "python" / STUB
    # A link, not a copy: the stub finds its libraries relative to where its file lies.
    beside = place.with_name(f".{STUB}.{os.getpid()}")
    beside.symlink_to(stub)
    beside.replace(place)
    return stub


def check_loads(stub: Path, environment: dict[str, str]) -> None:
    """Exit unless the stub's libraries are here: without them the server would wait for it for ever."""
    needs = subprocess.run(["ldd", str(stub)], env=environment, capture_output=True, text=True, check=True)
    missing = [line.split()[0] for line in needs.stdout.splitlines() if line.endswith("not found")]
    if missing:
        sys.exit(f"Triton's Python backend needs {', '.join(missing)}. Make .triton with a Python that has it.")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
