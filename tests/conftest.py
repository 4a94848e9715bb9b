"""What tests of several parts share: a trained run's folder, real photographs, gateways, and a real Triton server."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOST = Path(sys.executable).with_name("roost")
SERVES = re.compile(r"serving (?P<models>.+) on (?P<address>\S+), http on (?P<http>\S+)")
PHOTOGRAPHS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "rocket.jpg")


def pytest_configure() -> None:
    """Hear Ctrl-C, which a shell has its background jobs ignore, and those that they start: tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--soak`: the long forms of the tests of reliability."""
    parser.addoption("--soak", action="store_true", help="Run the tests of reliability in their long form.")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether a test shall take its long form."""
    return request.config.getoption("--soak")


@pytest.fixture
def seed() -> int:
    """Of a test that leaves something to chance; printed, so that a failure can be repeated with ROOST_TEST_SEED."""
    chosen = int(os.environ.get("ROOST_TEST_SEED", time.time_ns() % 2**32))
    print(f"ROOST_TEST_SEED={chosen}")  # noqa: T201 - pytest shows it where the test fails
    return chosen


@pytest.fixture(scope="session")
def photographs() -> list[bytes]:
    """Files of real photographs, colour and grey, PNG and JPEG."""
    from skimage import data

    return [Path(data.__file__).with_name(name).read_bytes() for name in PHOTOGRAPHS]


@pytest.fixture(scope="session")
def make_run(photographs) -> Callable[..., Path]:
    """Make what training leaves: an encoder (that has learnt nothing), golden images and their manifest."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from roost import artifact, preprocess
    from roost_training import encoders

    def make(folder: Path, *, encoder: str = "resnet10w32", size: int = 32) -> Path:
        torch.manual_seed(0)
        module, dim = encoders.build(encoder, image_size=size)
        given = artifact.Input(size=size, resize=size + 4, mean=(0.5, 0.45, 0.4), std=(0.25, 0.22, 0.2))
        embedder = encoders.Embedder(module, mean=given.mean, std=given.std).eval()
        pixels = np.stack([preprocess.decode(image, size=size, resize=given.resize) for image in photographs])
        with torch.inference_mode():
            embeddings = embedder(torch.from_numpy(pixels)).numpy()
        folder.mkdir(parents=True)
        save_file(module.state_dict(), folder / encoders.WEIGHTS)
        np.savez(folder / "golden.npz", pixels=pixels, embeddings=embeddings)
        manifest = artifact.Manifest(
            name=folder.name,
            method="simclr",
            encoder=encoder,
            input=given,
            dim=dim,
            data=artifact.Data(fingerprint="0" * 64, images=len(pixels)),
            quality={"knn20_accuracy": 0.5},
        )
        artifact.write(folder, manifest, files=[encoders.WEIGHTS, "golden.npz"])
        return folder

    return make


@pytest.fixture(scope="session")
def run(make_run, tmp_path_factory) -> Path:
    """The run `small`: a small resnet at 32 pixels."""
    return make_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="session")
def triton_repository(run, tmp_path_factory) -> Path:
    """A repository with `small@1` for Triton's Python backend, which is the one that the server in tests has."""
    from roost_export.export import export

    repository = tmp_path_factory.mktemp("triton") / "repository"
    export(run, repository=repository, backend="python", max_batch=8)
    return repository


@dataclass
class Gateway:
    """A gateway in a process of its own."""

    process: subprocess.Popen[str]
    address: str
    http_address: str

    def fetch(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.http_address}{path}", timeout=10) as answer:
            return answer.read().decode()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def gateway_process(*arguments: str, roost: Path = ROOST) -> Iterator[Gateway]:
    """`roost serve` on free ports, from its first answer until it is told to stop."""
    command = [roost, "serve", "--port", "0", "--http-port", "0", "--grace-seconds", "2", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := SERVES.search(line):
                yield Gateway(process, found["address"], found["http"])
                break
        else:
            pytest.fail("the gateway ended before it served:\n" + "".join(said))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="session")
def serve():
    """Starts a gateway in a process of its own."""
    return gateway_process


@dataclass(frozen=True)
class Triton:
    """A running Triton server."""

    url: str
    process: subprocess.Popen
    repository: Path


@pytest.fixture(scope="session")
def start_triton(tmp_path_factory) -> Iterator[Callable[..., Triton]]:
    """Start real Triton servers on loopback; all are stopped, by their process ids, at the end of the session."""
    python = ROOT / ".triton" / "bin" / "python"
    running: list[subprocess.Popen] = []

    def start(repository: Path, *options: str) -> Triton:
        if sys.platform != "linux" or not python.exists():
            pytest.skip("no real Triton server here: run `make triton`")
        log = tmp_path_factory.mktemp("server") / "triton.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [python, ROOT / "deploy" / "triton" / "run.py", repository, *options],
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        running.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        process.stdout.close()
        if not url:
            process.wait()
            pytest.skip(f"no real Triton server here: {log.read_text().strip()}")
        return Triton(url, process, repository)

    yield start
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in Path("/dev/shm").glob(f"roost_triton_{process.pid}_*"):
            left.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def triton(start_triton, triton_repository) -> Triton:
    """One server over `triton_repository`, for tests that leave it as they found it."""
    return start_triton(triton_repository)
