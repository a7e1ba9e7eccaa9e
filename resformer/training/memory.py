"""The memory that tensors take, and what becomes of it when they leave it."""

import ctypes
import os
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

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


class TensorBytes(TorchDispatchMode):
    """Inside, every storage that an operation makes is counted until it is gone: ``now``, and ``peak``, in bytes.

    As ``torch.distributed._tools.MemTracker`` counts, which looks at all that is alive after each operation: its time
    grows with the square of the depth.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def count(self, tensor: torch.Tensor) -> None:
        """What was there before, and belongs to it."""
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address not in self._alive:
            self._alive.add(address)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        tree_map_only(torch.Tensor, self.count, found)
        return found
