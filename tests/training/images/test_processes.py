"""Two processes train one encoder."""

import json
import os
import subprocess
import sys

from roost import artifact

CHILD = """
import sys
from roost_training.loop.training import train
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings

train(TrainSettings.model_validate_json(sys.argv[1]), progress=Reporter())
"""


def test_two_processes_share_a_run_s_batches_and_leave_one_artifact(settings, tmp_path):
    program = tmp_path / "train.py"
    program.write_text(CHILD)
    given = settings(devices=2, epochs=1, log_every=1)
    command = [sys.executable, str(program), given.model_dump_json()]
    subprocess.run(command, check=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    manifest = artifact.read(given.out)
    lines = [json.loads(line) for line in (given.out / "metrics.jsonl").read_text().splitlines()]
    assert manifest.quality["images_seen"] == 4 * 32  # of 130 images, 16 a step in each process
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4]
