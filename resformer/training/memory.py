"""What becomes of the memory that tensors leave."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST = 2**31 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> bool:
    """Let the process keep what tensors on a CPU leave, for those of its next step.

    By itself glibc gives large blocks back to the kernel, which maps and zeroes every page anew at each step: of four
    streams (6 blocks of width 384, 8 sequences of 256) 325 MB a step, a sixth of its time. Who chose by a variable of
    glibc's (``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES``, ...) is not overruled.

    Returns:
        Whether it does: not without glibc, nor where somebody chose.
    """
    chosen = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
    if any(name in os.environ for name in chosen) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _MOST) and mallopt(_MMAP_THRESHOLD, _MOST))
