"""Memory that is freed is used again."""

import platform
import subprocess
import sys

import pytest

WORK = """
import resource, sys
import torch
from trainer.distributed.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that ten tensors of 64 MiB, one after another, have the kernel find."""
    found = subprocess.run([sys.executable, "-c", WORK, how], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_step_finds_the_memory_of_the_one_before_it() -> None:
    # 64 MiB are 16,384 pages of 4 KiB, or 32 huge ones; whatever else the process does is a few.
    assert faults("keep") < faults("leave") / 4
