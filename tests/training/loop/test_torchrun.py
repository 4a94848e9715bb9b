"""`torchrun` starts a run's processes, and starts them again where one was killed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from roost import artifact, cli
from roost.errors import BadSettings
from roost_training.loop import devices
from roost_training.loop.processes import Place, launched_rank
from roost_training.loop.settings import TrainSettings

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
KILLED = """
import os, signal, sys
from pathlib import Path
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings
from roost_training.loop.training import train

first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
pids = Path(sys.argv[2])
if first_time:
    (pids / os.environ["RANK"]).write_text(str(os.getpid()))

class Killer(Reporter):
    def note(self, text):
        print(text, flush=True)

    def epoch(self, record):
        if first_time and record["epoch"] == 1:
            os.kill(int((pids / "1").read_text()), signal.SIGKILL)

train(TrainSettings.model_validate_json(sys.argv[1]), progress=Killer())
"""


def metrics(settings: TrainSettings) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what a clock measured."""
    lines = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "seconds_left", "images_per_second", "data_wait", "cpu_seconds"}
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


@dataclass(frozen=True)
class Finished:
    """A run of two processes, and what they said."""

    settings: TrainSettings
    said: str


def roost_train(settings: TrainSettings) -> list[str]:
    """The command line after `python` or `torchrun`."""
    command = ["-m", "roost", "train", str(settings.data)]
    for name in settings.model_fields_set - {"data"}:
        command += ["--set", f"{name}={getattr(settings, name)}"]
    return command


@pytest.fixture(scope="module")
def two(digits, tmp_path_factory) -> Finished:
    """A run whose processes Fabric started."""
    folder = tmp_path_factory.mktemp("fabric")
    settings = TrainSettings(
        data=digits,
        out=folder / "run",
        cache=folder / "pixels",
        encoder="resnet10w32",
        image_size=16,
        batch=32,
        epochs=3,
        threads=1,
        accelerator="cpu",
        precision="fp32",
        devices=2,
        log_every=1,
    )
    done = subprocess.run(
        [sys.executable, *roost_train(settings)], check=True, env=ENVIRONMENT, capture_output=True, text=True
    )
    return Finished(settings, done.stderr)


def test_two_processes_share_a_run_s_batches_and_leave_one_artifact(two):
    manifest = artifact.read(two.settings.out)
    assert manifest.quality["images_seen"] == 3 * 4 * 32  # of 130 images, 16 a step in each process
    assert [line["step"] for line in metrics(two.settings) if line["kind"] == "step"] == list(range(1, 13))


def test_of_two_processes_the_first_speaks(two):
    assert two.said.count("130 images to train on") == 1
    assert two.said.count("epoch 2, loss") == 1
    assert two.said.count("Next: roost export") == 1
    assert "GLOBAL_RANK" not in two.said


def test_torchrun_roost_train_ends_as_the_run_whose_processes_fabric_started(two, tmp_path):
    again = two.settings.model_copy(update={"out": tmp_path / "run", "devices": "auto"})
    subprocess.run([*TORCHRUN, *roost_train(again)], check=True, env=ENVIRONMENT)
    assert metrics(again) == metrics(two.settings)


def test_where_a_process_is_killed_torchrun_starts_all_again_and_they_end_as_if_it_had_not_been(two, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(KILLED)
    again = two.settings.model_copy(update={"out": tmp_path / "run", "devices": "auto", "resume": True})
    command = [*TORCHRUN, "--max-restarts", "1", str(script), again.model_dump_json(), str(tmp_path)]
    done = subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.count("Going on after step 4, in epoch 1.") == 1
    assert "exitcode: -9" in done.stderr
    assert metrics(again) == metrics(two.settings)


@pytest.mark.parametrize(
    ("world", "local", "machines", "expected"), [("4", "4", "1", Place(4, 1)), ("8", "2", "4", Place(2, 4))]
)
def test_torchrun_says_how_many_processes_and_machines_there_are(world, local, machines, expected):
    environment = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": world}
    environment |= {"LOCAL_WORLD_SIZE": local, "GROUP_WORLD_SIZE": machines}
    assert Place.found(environment) == expected


def test_without_torchrun_there_is_no_place():
    assert Place.found({"WORLD_SIZE": "2"}) is None


def test_machines_with_different_numbers_of_processes_are_refused():
    environment = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
    with pytest.raises(BadSettings, match="same --nproc-per-node"):
        Place.found(environment)


def test_another_number_of_devices_than_torchrun_s_is_refused(settings, monkeypatch):
    for name, value in {"RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}" if name == "RUN_ID" else name, value)
    with pytest.raises(BadSettings, match="devices is 3, and torchrun started 2 processes here"):
        devices.fabric(settings(devices=3))


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "5", "LOCAL_RANK": "1"}, 5),
        ({"RANK": "5"}, 0),
    ],
)
def test_a_launched_process_knows_its_rank(environment, rank):
    assert launched_rank(environment) == rank


def test_an_error_that_every_process_meets_is_told_by_the_first(tmp_path, monkeypatch):
    command = ["train", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run"), "--set", f"cache={tmp_path}"]
    first = CliRunner().invoke(cli.build(), command)
    monkeypatch.setenv("LOCAL_RANK", "1")
    second = CliRunner().invoke(cli.build(), command)
    assert (first.exit_code, second.exit_code) == (1, 1)
    assert "There is no folder" in first.stderr
    assert second.output == ""
