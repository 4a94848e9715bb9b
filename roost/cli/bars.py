"""Progress bars on stderr, where that is a terminal."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")


def counted(things: Iterable[T], *, total: int) -> Iterator[T]:
    """Pass things on while a bar shows how many of them came, how fast, and how long the rest will take."""
    begun = time.monotonic()
    with _bar() as bar:
        task = bar.add_task("", total=total, note="")
        for done, thing in enumerate(things, start=1):
            bar.update(task, completed=done, note=f"{done / (time.monotonic() - begun):,.0f} images/s")
            yield thing


@contextmanager
def staged() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for work in named stages: call it with the stage's name, its steps done and its steps in all."""
    with _bar() as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, note="")
            bar.update(tasks[stage], completed=done, total=total)

        yield show


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
