"""The wheel with the extras `serving` and `index` in an empty environment gives a working gateway without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A new environment that holds the built wheel with two extras, at the versions that are locked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder / "env"], check=True)
    install = [uv, "pip", "install", "-q", "--constraint", ROOT / "requirements/dev.txt", f"{wheel}[serving,index]"]
    subprocess.run(install, check=True, env=os.environ | {"VIRTUAL_ENV": str(folder / "env")})
    return folder / "env"


def test_the_gateway_of_the_wheel_embeds_stores_and_finds(*, environment, repository, images, tmp_path, roost, serve):
    installed = environment / "bin" / "roost"
    assert not list(environment.glob("lib/python*/site-packages/torch"))
    arguments = ["--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index"]
    folder = images / "7"
    with serve(*arguments, roost=installed) as gateway:
        flags = ["--gateway", gateway.address]
        roost("index", folder, "--ledger", tmp_path / "job", *flags, roost=installed)
        query = min(folder.iterdir())
        found = roost("search", "--image", query, "--json", *flags, roost=installed).stdout
        assert gateway.stop() == 0
    assert json.loads(found.splitlines()[0])["score"] == pytest.approx(1, abs=1e-4)


def test_a_command_whose_extra_is_missing_says_which(environment, images):
    done = subprocess.run(
        [environment / "bin" / "roost", "train", images, "--out", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert ".[training]" in done.stderr
    assert "Traceback" not in done.stderr
