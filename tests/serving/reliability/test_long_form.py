"""The long form leaves nothing out."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SKIPS = """
import pytest

@pytest.fixture
def part():
    pytest.skip("There is none here.")

def test_of_a_part(part):
    pass

def test_that_looks_first():
    pytest.importorskip("no_such_module")
"""


@pytest.mark.parametrize(
    ("form", "outcome"), [((), "2 skipped"), (("--soak",), "1 failed, 1 error")], ids=["short", "long"]
)
def test_what_cannot_run_here_is_skipped_in_the_short_form_and_fails_in_the_long(tmp_path, form, outcome):
    (tmp_path / "reliability").mkdir()
    shutil.copy(HERE.parents[1] / "conftest.py", tmp_path)
    shutil.copy(HERE / "conftest.py", tmp_path / "reliability")
    (tmp_path / "reliability" / "test_it.py").write_text(SKIPS)
    command = [sys.executable, "-m", "pytest", "--import-mode=importlib", "-ra", *form, str(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"{outcome} in" in run.stdout, run.stdout
    assert run.returncode == (1 if form else 0)
    assert "There is none here." in run.stdout
