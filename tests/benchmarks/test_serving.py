"""The parts of the serving benchmark that decide what its figures mean."""

import asyncio
import importlib
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "serving"
SERVICE_SECONDS = 0.02


@pytest.fixture(scope="module")
def module():
    """Import a file of the benchmark, whose files find each other by being in one folder."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.fixture
def one_at_a_time():
    """Asks a server that takes one image at a time, and the same time for each."""
    turn = asyncio.Lock()

    async def ask(number: int) -> None:
        async with turn:
            await asyncio.sleep(SERVICE_SECONDS)

    return ask


def test_percentiles_are_times_that_were_measured(module):
    assert module("work").percentiles([number / 1000 for number in range(1, 101)]) == (50, 99)


async def test_an_open_loop_counts_the_time_from_when_an_image_was_due(module, one_at_a_time):
    # Twice what the server can do: the last of 50 images is due at 0.49 s and cannot be answered before 50 x 0.02 s.
    answers = await module("load").open_loop(one_at_a_time, rate=100, warmup_seconds=0, seconds=0.5)
    assert len(answers.seconds) == 50
    assert answers.seconds[-1] > 0.5


async def test_a_closed_loop_does_not_count_warming_up(module, one_at_a_time):
    answers = await module("load").closed_loop(one_at_a_time, callers=3, warmup_seconds=0.2, seconds=0.2)
    assert 0 < len(answers.seconds) <= 11  # 10 images fit into the time, and one may straddle its beginning
    assert answers.calls > len(answers.seconds)


async def test_a_call_that_fails_is_a_failure_and_no_answer(module):
    async def ask(number: int) -> None:
        raise ConnectionError("refused")

    answers = await module("load").open_loop(ask, rate=100, warmup_seconds=0, seconds=0.05)
    assert answers.failures == ["ConnectionError: refused"] * 5
    assert answers.seconds == []


def test_embeddings_of_other_images_are_not_taken_for_the_right_ones(module):
    agree = partial(module("load").agree, least_cosine=0.999)
    generator = np.random.default_rng(0)
    common = generator.normal(size=64)
    vectors = common + 0.01 * generator.normal(size=(8, 64))  # nearly alike, as an untrained encoder's
    assert agree(vectors + 1e-6, vectors)
    assert not agree(vectors[::-1], vectors)
    assert not agree(vectors[:4], vectors)


def test_a_ratio_is_taken_in_each_round(module):
    rates = {"bare": (100.0, 50.0, 80.0), "roost": (90.0, 45.0, 40.0)}
    rows = [
        {"contender": name, "callers": 8, "round": number, "images_per_second": rate}
        for name, found in rates.items()
        for number, rate in enumerate(found)
    ]
    assert module("summary").Figures(rows).share("roost", 8) == pytest.approx(0.9)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_a_server_is_weighed_and_stopped_with_all_that_it_started(module, tmp_path):
    child = "import sys; print('child', flush=True); sys.stdin.read()"
    parent = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE).wait()"
    )
    processes = module("processes")
    with processes.Tree.start([sys.executable, "-c", parent], log=tmp_path / "log", environment={}, piped=True) as tree:
        assert tree.process.stdout.readline() == "child\n"
        members = tree.members()
        assert len(members) == 2
        assert tree.resident_bytes() > max(member.resident_bytes for member in members)
    tree.process.stdout.close()
    assert {member.pid for member in members}.isdisjoint(pid for pid, stat in processes.stats().items() if stat.running)
