"""What the C library does with memory that a step frees."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
KEPT_BYTES = 2**30
"""Free memory at the end of the heap that a process keeps."""


def keep_freed_memory() -> None:
    """Let this process use the memory of large tensors again, rather than give it back and ask anew.

    glibc gives everything above 32 MiB back at once and most of what is smaller soon, so that each step of a
    training on a CPU meets its vectors and gradients as new pages, which the kernel has to find and clear:
    with large batches of wide rows most of its time. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
