"""A run that was killed ends as if it had not been."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from roost.errors import BadArtifact, BadSettings
from roost_training import encoders
from roost_training.loop import checkpoint
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings
from roost_training.loop.training import train

CHILD = """
import sys
from roost_training.loop.training import train
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings

class Steps(Reporter):
    def step(self, progress, figures):
        print("step", flush=True)

    def note(self, text):
        print(text, flush=True)

train(TrainSettings.model_validate_json(sys.argv[1]), progress=Steps())
"""


def start(settings: TrainSettings) -> subprocess.Popen:
    """A run in a process of its own, which prints a line after each step."""
    command = [sys.executable, "-c", CHILD, settings.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for_steps(process: subprocess.Popen, count: int) -> None:
    while count:
        line = process.stdout.readline()
        assert line, "the run ended first"
        count -= line == "step\n"


def without_times(settings: TrainSettings) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "cpu_seconds", "seconds_left", "images_per_second", "data_wait"}
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


@pytest.fixture
def uninterrupted(settings, tmp_path):
    given = settings(epochs=3, log_every=1, out=tmp_path / "whole")
    train(given, progress=Reporter())
    return given


def test_a_run_that_was_killed_in_an_epoch_ends_with_the_same_weights_and_metrics(uninterrupted, tmp_path):
    killed = uninterrupted.model_copy(update={"out": tmp_path / "killed", "checkpoint_seconds": 1e-6})
    with start(killed) as process:
        wait_for_steps(process, 6)  # of 4 an epoch: in the second
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (killed.out / encoders.WEIGHTS).exists()

    manifest = train(killed.model_copy(update={"resume": True}), progress=Reporter())

    expected = load_file(uninterrupted.out / encoders.WEIGHTS)
    weights = load_file(killed.out / encoders.WEIGHTS)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert without_times(killed) == without_times(uninterrupted)
    assert manifest.quality["images_seen"] == 3 * 4 * 32


class Killed(BaseException):
    """Ends a run between two steps, where nothing is written any more."""


class Killer(Reporter):
    """Ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, progress, figures):
        self.left -= 1
        if not self.left:
            raise Killed


@pytest.mark.parametrize(
    ("method", "given"), [("moco", {"queue": 64}), ("deepcluster", {"clusters": 8}), ("swav", {"queue": 64})]
)
def test_a_method_s_memory_goes_through_a_checkpoint_in_an_epoch(settings, tmp_path, method, given):
    whole = settings(method=method, method_settings=given, epochs=3, log_every=1, out=tmp_path / "whole")
    train(whole, progress=Reporter())
    killed = whole.model_copy(update={"out": tmp_path / "killed", "checkpoint_seconds": 1e-6})
    with pytest.raises(Killed):
        train(killed, progress=Killer(6))  # of 4 an epoch: in the second
    train(killed.model_copy(update={"resume": True}), progress=Reporter())
    assert without_times(killed) == without_times(whole)


def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(settings):
    given = settings(epochs=10_000, log_every=1)
    with start(given) as process:
        wait_for_steps(process, 2)
        process.terminate()
        said, _ = process.communicate()
    assert process.returncode != 0
    assert "Run the same command with --resume to go on." in said
    assert checkpoint.path_in(given.out).exists()


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_over(settings):
    given = settings(epochs=1)
    train(given, progress=Reporter())
    checkpoint.path_in(given.out).unlink()
    manifest = train(given.model_copy(update={"resume": True}), progress=Reporter())
    assert manifest.quality["epochs"] == 1


@pytest.fixture
def stopped(settings):
    given = settings(epochs=1)
    train(given, progress=Reporter())
    return given.model_copy(update={"resume": True})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method", "byol"),
        ("encoder", "resnet18"),
        ("epochs", 5),
        ("seed", 1),
        ("method_settings", {"temperature": 0.5}),
        ("accumulate", 2),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_by_the_setting_s_name(stopped, key, value):
    with pytest.raises(BadSettings, match=f"was trained with {key} = "):
        train(stopped.model_copy(update={key: value}), progress=Reporter())


def test_a_checkpoint_of_the_same_images_in_another_order_is_refused(stopped, digits, tmp_path):
    renamed = shutil.copytree(digits, tmp_path / "renamed")
    (first, *_, last) = sorted((renamed / "0").iterdir())
    first.rename(last.with_name(f"{last.stem}z{last.suffix}"))
    with pytest.raises(BadSettings, match="renamed"):
        train(stopped.model_copy(update={"data": renamed}), progress=Reporter())


def test_a_checkpoint_of_other_images_is_refused(stopped, digits, tmp_path):
    other = tmp_path / "fewer"
    for digit in "012":
        (other / digit).mkdir(parents=True)
        for path in (digits / digit).iterdir():
            (other / digit / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BadSettings, match="other images"):
        train(stopped.model_copy(update={"data": other}), progress=Reporter())


def test_a_damaged_checkpoint_is_refused(stopped):
    path = checkpoint.path_in(stopped.out)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadArtifact, match="cannot be read"):
        train(stopped, progress=Reporter())


@pytest.mark.parametrize(("key", "value"), [("schema", 1), ("method", {"no.such.weight": torch.zeros(1)})])
def test_a_checkpoint_of_another_version_is_refused(stopped, key, value):
    path = checkpoint.path_in(stopped.out)
    torch.save(torch.load(path, weights_only=True) | {key: value}, path)
    with pytest.raises(BadArtifact, match=r"has schema 1, not 3|another version of the method simclr"):
        train(stopped, progress=Reporter())


def test_a_checkpoint_holds_nothing_but_tensors_and_plain_values(stopped):
    state = torch.load(checkpoint.path_in(stopped.out), weights_only=True)
    assert state["position"]["step"] == 4
