"""Work on a CPU in one thread per core, each running torch's operations alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor


def each(work: Callable[[Tensor], None], indices: Tensor, *, chunks: int) -> None:
    """Call `work` on interleaved parts of `indices`, as many at a time as torch has threads.

    Torch splits each small operation over its threads and waits for all of them, which gains little, and on a busy
    machine costs many times the operation. Here a part stays on its thread from beginning to end.

    Args:
        work: Takes some of the indices, in their order. It must not touch what another part does.
        indices: Shape (n,).
        chunks: Parts to make at least, where there are as many indices.
    """
    threads = torch.get_num_threads()
    parts = max(chunks, threads)
    with _one_thread_each(), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, [indices[i::parts] for i in range(min(parts, len(indices)))]):
            pass


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Threads that start inside run torch's operations alone; the caller's own setting comes back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
