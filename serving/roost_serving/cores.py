"""Keeps the threads that work on one image on cores of their own.

A system that wakes a thread beside the one that woke it, on a core that is busy, may leave it there for the whole of an
image, which then takes as long as on one core: one image in a hundred, on two cores.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


def own(count: int) -> list[int]:
    """The cores that this process may run on, where they are `count`; none where it has more, or cannot know."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return cores if len(cores) == count else []


@contextmanager
def first(cores: Sequence[int]) -> Iterator[None]:
    """Keep this thread on the first of some cores; where there are none, change nothing."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # it was taken from this process meanwhile, or a sandbox forbids to choose
        os.sched_setaffinity(0, cores[:1])
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)
