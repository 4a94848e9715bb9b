"""Memory that a training takes and gives back thousands of times a second."""

import ctypes

MMAP_MAX, TRIM_THRESHOLD = -4, -1
"""`mallopt`'s names, from glibc's malloc.h."""


def keep_freed() -> None:
    """Let glibc keep what is freed, for the rest of the process; elsewhere, change nothing.

    By default a tensor of more than 32 MiB, and often a smaller one, is mapped afresh whenever it is made, and each of
    its pages costs a fault on first touch: a tenth of a small encoder's training. The process keeps its peak instead.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or Windows, which takes no None
        return
    mallopt(MMAP_MAX, 0)
    mallopt(TRIM_THRESHOLD, -1)
