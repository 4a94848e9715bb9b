"""How many cores torch's operations take."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operations on the CPU in the calling thread alone; the caller's own setting comes back.

    Split over threads, small operations gain little on idle cores, and on busy ones wait for each other many times
    longer than they work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
