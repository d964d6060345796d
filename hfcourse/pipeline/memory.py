"""Memory that one step frees is kept for the next."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# Larger blocks are the system's, as by default: kept, they would not be found again by the next of just that size.
LARGEST_BLOCK = 2**25
KEPT = 2**28
# Who has set these has chosen.
CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have the C library keep 256 MiB of freed blocks, where it is glibc and nobody has chosen otherwise.

    By default it hands a step's logits and activations back to the system, or does not, as their sizes and order have
    it; the page faults of asking for them again are up to a tenth of a small model's step on a CPU.

    Returns:
        Whether it will.
    """
    if any(name in os.environ for name in CHOICES):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK))
