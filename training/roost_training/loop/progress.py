"""What a person sees of a run: a bar on a terminal, a line per epoch elsewhere; words go to stderr."""

import math
import sys
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Reporter:
    """Told of what a run does; says nothing. Subclasses say it."""

    def note(self, text: str) -> None:
        """Something that a person should read once."""

    def decoded(self, done: int, total: int) -> None:
        """So many of the image files have been read."""

    def step(self, progress: float, figures: Mapping[str, float]) -> None:
        """An optimiser's step was made; `progress` is the share of the training that is done."""

    def epoch(self, record: Mapping[str, float]) -> None:
        """An epoch ended; `record` is its line in metrics.jsonl."""

    def close(self) -> None:
        """The run ended, well or not."""


class Lines(Reporter):
    """A line for each epoch and note, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def note(self, text: str) -> None:
        """Write the note."""
        print(text, file=self.stream, flush=True)

    def epoch(self, record: Mapping[str, float]) -> None:
        """Write the epoch's figures."""
        self.note(_sentence(record))


class Bar(Reporter):
    """A progress bar with loss, images/s, time left and the share of time that waits for data."""

    def __init__(self, stream: TextIO) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(file=stream),
        )
        self.task = self.bar.add_task("reading", total=1.0, figures="")
        self.bar.start()

    def note(self, text: str) -> None:
        """Print the note above the bar."""
        self.bar.console.print(text, highlight=False)

    def decoded(self, done: int, total: int) -> None:
        """Move the bar through the files."""
        self.bar.update(self.task, completed=done / max(total, 1), figures=f"{done} of {total} images")

    def step(self, progress: float, figures: Mapping[str, float]) -> None:
        """Move the bar through the training."""
        text = (
            f"loss {figures['loss']:.3f}  {figures['images_per_second']:,.0f} images/s  "
            f"{_duration(figures['seconds_left'])} left  {figures['data_wait']:.0%} waiting for data"
        )
        self.bar.update(self.task, description="training", completed=progress, figures=text)

    def epoch(self, record: Mapping[str, float]) -> None:
        """Print scores above the bar; an epoch without them is seen in the bar."""
        if "rankme" in record:
            self.note(_sentence(record))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()


def console(stream: TextIO | None = None) -> Reporter:
    """The reporter that suits a stream, stderr by default: a bar where it is a terminal, else lines."""
    stream = stream or sys.stderr
    if stream is None:  # a process without one
        return Reporter()
    return Bar(stream) if stream.isatty() else Lines(stream)


def _sentence(record: Mapping[str, float]) -> str:
    parts = [f"epoch {record['epoch']:.0f}", f"loss {record['loss']:.4f}"]
    if "knn20_accuracy" in record:
        parts.append(f"kNN-20 {record['knn20_accuracy']:.1%}")
    if "rankme" in record:
        parts.append(f"RankMe {record['rankme']:.1f}")
    if "feature_std" in record:
        parts.append(f"feature std {record['feature_std']:.2f}")
    parts.append(f"{record['images_per_second']:,.0f} images/s")
    parts.append(f"{record['data_wait']:.0%} waiting for data")
    return ", ".join([*parts, f"{_duration(record['seconds_left'])} left"])


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
