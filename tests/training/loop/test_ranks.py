"""Two processes compute what one would, and keep every method's state equal; `ranks.py` is what torchrun runs."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from roost_training import methods

SCRIPT = Path(__file__).with_name("ranks.py")
RANKS = runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """What the first of two processes found."""
    path = tmp_path_factory.mktemp("ranks") / "answer.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(SCRIPT), str(path)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return torch.load(path)


@pytest.mark.parametrize("name", RANKS["EXACT"])
def test_two_processes_equal_one_of_twice_the_batch_in_loss_and_gradient(answer, name):
    loss, gradients = answer["exact"][name]
    method = RANKS["exact"](name)
    expected = RANKS["loss_of"](name, method, RANKS["noise"](method))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for key, gradient in RANKS["gradients"](method).items():
        assert (gradients[key] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-9, key


@pytest.mark.parametrize("name", methods.names())
def test_both_processes_hold_the_same_state_after_two_steps(answer, name):
    assert answer["unequal"][name] == []


def test_moco_s_state_is_compared_with_its_queue_and_its_key_encoder():
    parts = {key.split(".")[0] for key in RANKS["METHODS"]["build"]("moco").state_dict()}
    assert {"queue", "teacher"} <= parts


def test_a_batch_norm_has_the_statistics_of_both_processes(answer):
    alone = nn.BatchNorm2d(3)
    expected = alone(RANKS["maps"]())
    found, running_mean, running_var = answer["normalised"]
    assert torch.allclose(found, expected[: RANKS["ROWS"]], atol=1e-6)
    assert torch.allclose(running_mean, alone.running_mean, atol=1e-7)
    assert torch.allclose(running_var, alone.running_var, atol=1e-6)


def test_where_one_process_fails_all_are_told(answer):
    assert answer["refused"] == "There is no folder here."


def test_numbers_are_summed_over_both_processes(answer):
    assert answer["sum"] == [3.0]
