import subprocess
import sys
import time

import pytest

from roost_training.loop.schedule import Clock, Stopwatch, cosine


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0), (1.5, 0.0)]
)
def test_the_rate_rises_to_its_peak_and_falls_to_zero(progress, expected):
    assert cosine(progress, warmup=0.1) == pytest.approx(expected, abs=1e-9)


def test_without_warm_up_the_rate_begins_at_its_peak():
    assert cosine(0.0, warmup=0.0) == 1.0


def test_without_a_budget_progress_counts_steps():
    clock = Clock(steps=8)
    assert clock.progress(2) == 0.25


def test_a_budget_that_runs_out_first_ends_the_training():
    clock = Clock(steps=1_000_000, max_seconds=100.0, seconds=150.0)
    assert clock.progress(1) == 1.0


def test_a_resumed_run_has_spent_what_it_spent_before():
    clock = Clock(steps=1_000_000, max_cpu_seconds=1e6, cpu_seconds=5e5)
    assert clock.progress(1) == pytest.approx(0.5, abs=1e-3)


def test_what_is_counted_counts_against_the_budget():
    clock = Clock(steps=1_000_000, max_cpu_seconds=10.0)
    clock.count((1.0, 2.5))
    clock.count((1.0, 2.5))
    assert clock.progress(1) == 0.5
    assert (clock.seconds, clock.cpu_seconds) == (2.0, 5.0)


def test_a_lap_measures_this_process_s_processor_time():
    stopwatch, start = Stopwatch(), time.process_time()
    sum(range(200_000))
    _, cpu_seconds = stopwatch.lap()
    assert 0 < cpu_seconds <= time.process_time() - start + 0.1


def test_a_lap_has_the_processor_time_of_children_that_ended():
    stopwatch = Stopwatch()
    subprocess.run([sys.executable, "-c", "sum(range(2_000_000))"], check=True)
    before = time.process_time()
    _, cpu_seconds = stopwatch.lap()
    assert cpu_seconds > 0.01 + time.process_time() - before
