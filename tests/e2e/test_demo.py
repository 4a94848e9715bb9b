"""`make demo`, with a training of one epoch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples/demo.py"
ENVIRONMENT = os.environ | {"ROOST_TRAIN_EPOCHS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The folder that the demo runs in."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def once(place) -> subprocess.CompletedProcess[str]:
    """The demo, run once from nothing."""
    command = [sys.executable, DEMO, "--once"]
    return subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_once_checks_every_answer_and_ends_well(once):
    assert once.returncode == 0, once.stdout + once.stderr
    assert once.stdout.count("\nok  ") == 9
    assert "FAIL" not in once.stdout
    assert "raw_pixels_clusters_nmi" in once.stdout


def test_ctrl_c_drains_and_exits_0_and_what_was_done_is_not_done_again(once, place):
    process = subprocess.Popen(
        [sys.executable, DEMO], cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    said, answers = [], []
    for line in process.stdout:
        said.append(line)
        if "Metrics: http" in line:
            answers = [run(command, place) for command in grpcurl_calls(said)]
            process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    text = "".join(said)
    assert "trained already" in text
    assert "roost search --image" in text
    assert "drained and exited with 0" in text
    assert len(answers) == 9
    assert [answer.stderr for answer in answers if answer.returncode] == []
    assert '"outcome": "INGEST_OUTCOME_STORED"' in answers[2].stdout
    process.stdout.close()


def grpcurl_calls(said: list[str]) -> list[str]:
    """The commands by plain gRPC that the demo prints, each with the image that they share."""
    lines = [line.strip() for line in said]
    (image,) = [line for line in lines if line.startswith("image=")]
    return [f"{image}; {line}" for line in lines if line.startswith("echo ")]


def run(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A line as one would type it in the demo's folder."""
    return subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, check=False)
