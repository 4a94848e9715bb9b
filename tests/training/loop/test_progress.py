import io
import signal
import threading

import pytest

from roost_training.loop.meter import Meter
from roost_training.loop.progress import Bar, Lines, console
from roost_training.loop.signals import Interruption

RECORD = {
    "epoch": 3,
    "step": 40,
    "loss": 1.25,
    "knn20_accuracy": 0.875,
    "rankme": 12.0,
    "feature_std": 0.5,
    "images_per_second": 1234.0,
    "data_wait": 0.02,
    "seconds_left": 3725.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_an_epoch():
    stream = io.StringIO()
    console(stream).epoch(RECORD)
    assert stream.getvalue() == (
        "epoch 3, loss 1.2500, kNN-20 87.5%, RankMe 12.0, feature std 0.50, 1,234 images/s, 2% waiting for data, "
        "1:02:05 left\n"
    )


def test_a_log_gets_no_line_a_step():
    stream = io.StringIO()
    console(stream).step(0.5, RECORD)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    reporter = console(stream)
    reporter.decoded(1, 2)
    reporter.step(0.5, RECORD)
    reporter.close()
    said = stream.getvalue()
    assert isinstance(reporter, Bar)
    for part in ("training", "50 %", "loss 1.250", "1,234 images/s", "1:02:05 left", "2% waiting for data"):
        assert part in said


def test_lines_are_for_what_is_no_terminal():
    assert isinstance(console(io.StringIO()), Lines)


def test_a_meter_counts_images_and_the_share_of_time_that_waits(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 8.0, 8.0, 10.0])  # made; asked, given; asked, ended; stopped
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    meter = Meter()
    for _ in meter.waiting(["a batch"]):
        meter.images += 50
    meter.stop()
    assert meter.figures() == pytest.approx({"images_per_second": 5.0, "data_wait": 0.2})


def test_the_first_interrupt_is_noted_and_the_second_has_its_usual_effect():
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_no_handler_is_set():
    found = []

    def enter() -> None:
        with Interruption() as interruption:
            found.append(interruption.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]
