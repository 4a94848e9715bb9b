"""Who is compared: how each is started, how it is asked, and what it is measured against."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from models import Made

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PEERS = HERE / "peers"
VENVS = ROOT / ".peers"
UV = Path(sys.executable).with_name("uv")
NO_TELEMETRY = {"DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0"}
TRITON = "triton"
"""Name of the virtual environment that carries the Triton server."""


@dataclass(frozen=True)
class Start:
    """A start of a contender."""

    made: Made
    port: int
    folder: Path
    """For its log and what else it writes."""
    behind: str = ""
    """Address of the server that it stands before."""


@dataclass(frozen=True)
class Contender:
    """A service, or the loop without one."""

    protocol: str
    """How it is asked; see `clients.client`."""
    command: Callable[[Start], list[str | Path]] | None = None
    """What starts it; None for the loop."""
    environment: str = ""
    """Name of its virtual environment; empty for Roost's own."""
    precision: str = "fp32"
    least_cosine: float = 0.999
    """Of its answers to the plain loop's."""
    model: str = "encoder"
    """What the model is called there; empty for the name that Roost gave it."""
    behind: str = ""
    """The contender that must run behind it."""


def peer(name: str, *options: str, protocol: str) -> Contender:
    """One whose server is `peers/NAME_server.py`."""
    return Contender(protocol, lambda _: [python(name), PEERS / f"{name}_server.py", *options], name)


def gateway(start: Start, *, backend: str, precision: str) -> list[str | Path]:
    """`roost serve` over one model, with its vectors in memory."""
    repository = start.made.repository(precision)
    url = f"triton://{start.behind}" if backend == "triton" else f"{backend}://{repository}"
    flags = {
        "--backend": url,
        "--repository": repository,
        "--store": "memory://",
        "--port": start.port,
        "--http-port": 0,
        "--reload-seconds": 0,
    }
    return [sys.executable, "-m", "roost", "serve", *(str(each) for flag in flags.items() for each in flag)]


def triton(start: Start, *, jpeg: bool, control: str = "none") -> list[str | Path]:
    """A Triton server over the repository of the model that takes JPEG files, or of the one that takes pixels."""
    repository = start.made.jpeg_repository if jpeg else start.made.repository("fp32")
    options = ["--grpc-port", str(start.port), "--model-control-mode", control]
    return [python(TRITON), ROOT / "deploy" / "triton" / "run.py", repository, *options]


def bentoml(start: Start) -> list[str | Path]:
    """BentoML's own command, on the module."""
    command = python("bentoml").with_name("bentoml")
    return [command, "serve", "bentoml_server:Embed", "--host", "127.0.0.1", "--port", str(start.port)]


CONTENDERS = {
    "bare": Contender(""),
    "bare-int8": Contender("", precision="int8"),
    "roost": Contender("roost", lambda start: gateway(start, backend="onnx", precision="fp32")),
    "roost-int8": Contender("roost", lambda start: gateway(start, backend="onnx", precision="int8"), precision="int8"),
    "roost-openvino": Contender("roost", lambda start: gateway(start, backend="openvino", precision="fp32")),
    "roost-openvino-int8": Contender(
        "roost",
        lambda start: gateway(start, backend="openvino", precision="int8"),
        precision="int8",
        least_cosine=0.98,  # it rounds otherwise than ONNX Runtime, and comes as near to fp32
    ),
    "roost-triton": Contender(
        "roost", lambda start: gateway(start, backend="triton", precision="fp32"), behind="triton-behind"
    ),
    "triton-pixels": Contender("v2-pixels", lambda start: triton(start, jpeg=False), TRITON, model=""),
    "fastapi": peer("fastapi", protocol="http"),
    "fastapi-wide": peer("fastapi", "wide", protocol="http"),
    "litserve": peer("litserve", protocol="http"),
    "bentoml": Contender("http", bentoml, "bentoml"),
    "ray": peer("ray", protocol="http"),
    "mlserver": peer("mlserver", protocol="v2"),
    "kserve": peer("kserve", protocol="v2"),
    "triton": Contender("v2-batched", lambda start: triton(start, jpeg=True), TRITON, model=""),
}
BEHIND = {"triton-behind": Contender("", lambda start: triton(start, jpeg=False, control="explicit"), TRITON)}


def python(environment: str) -> Path:
    """The Python of a peer's virtual environment."""
    return VENVS / environment / "bin" / "python"


def install(environment: str) -> None:
    """Make a peer's virtual environment from its pinned requirements, unless it is there.

    Raises:
        subprocess.CalledProcessError: The packages cannot be had.
    """
    folder, requirements = VENVS / environment, PEERS / "requirements" / f"{environment}.txt"
    written = folder / "requirements.txt"
    if written.exists() and written.read_text() == requirements.read_text():
        return
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    run([UV, "venv", "-q", "--clear", "--python", sys.executable, folder])
    alone = ["--no-deps"] if environment == TRITON else []  # nvidia-pytriton's Python half is not used
    chosen = os.environ | {"VIRTUAL_ENV": str(folder)}
    run([UV, "pip", "install", "-q", *alone, "-r", requirements], env=chosen)
    shutil.copyfile(requirements, written)


def surroundings(contender: Contender, start: Start) -> dict[str, str]:
    """Environment variables of a contender's server."""
    if not contender.environment:
        return dict(os.environ)
    outer = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return outer | {
        "PATH": f"{VENVS / contender.environment / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(PEERS),
        "HOME": str(start.folder),  # what a peer leaves in its user's folder stays with its log
        "PEER_MODEL": str(start.made.version(contender.precision) / "model.onnx"),
        "PEER_SIZE": str(start.made.model.size),
        "PEER_RESIZE": str(start.made.model.resize),
        "PEER_PORT": str(start.port),
        **NO_TELEMETRY,
    }


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
