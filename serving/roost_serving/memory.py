"""Memory that loading takes, and serving does not need."""

import ctypes


def give_back() -> None:
    """Have glibc give freed memory back to the system; elsewhere, change nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another C library, or Windows, which takes no None
        return
