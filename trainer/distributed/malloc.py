"""Settings of the C library's allocator."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
RETAINED_BYTES = 2**30
"""Free memory at the end of the heap that a process retains."""


def keep_freed_memory() -> None:
    """Let this process reuse the memory of large tensors, rather than return it and ask for it again.

    glibc returns every block above 32 MiB at once and most smaller ones soon, so that each step of a training
    on a CPU gets its vectors and gradients as new pages, which the kernel has to find and clear: with large
    batches of wide rows, that takes most of its time. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, RETAINED_BYTES)
