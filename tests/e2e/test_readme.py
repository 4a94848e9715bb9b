"""What the README shows works: its commands exist with those flags, and its Python runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL))
COMMANDS = re.findall(r"^(?:[A-Z_]+=\S+ )*(roost [^>\n]+)", BLOCKS, flags=re.MULTILINE)
GROUPS = ("config", "items", "keys")
"""Commands of several words."""
TARGETS = re.findall(r"^make (\w+)", BLOCKS, flags=re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists_with_its_flags(line, roost):
    _, *words = shlex.split(line, comments=True)
    name = words[: 2 if words[0] in GROUPS else 1]
    flags = set(re.findall(r"--[a-z-]+", roost(*name, "--help").stdout))
    assert {word for word in words if word.startswith("--")} <= flags


def test_the_make_targets_of_the_readme_exist():
    assert TARGETS
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in TARGETS)


def test_the_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_python_of_the_readme_runs(repository, images, tmp_path, roost, serve):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, digit in {"heron": 2, "kite": 4}.items():
        (photos / f"{name}.jpg").write_bytes(min((images / str(digit)).iterdir()).read_bytes())
    with serve("--backend", f"onnx://{repository}", "--store", "memory://") as gateway:
        roost("index", photos, "--gateway", gateway.address, "--ledger", tmp_path / "job")
        code = code.replace("127.0.0.1:50051", gateway.address)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1.000  heron.jpg" in done.stdout
