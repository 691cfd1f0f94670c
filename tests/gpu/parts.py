"""Runs one part of the GPU check: `python -m tests.gpu.parts NAME cpu|cuda FOLDER`."""

import os
import sys
import warnings
from pathlib import Path

from tests.gpu import correctness, performance
from tests.gpu.part import Part


def main() -> None:
    """Run the part that is named; it is a function of one of the two modules."""
    name, device, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    part = Part(name, device, folder)
    work = getattr(performance, name, None) or getattr(correctness, name)
    part.attempt(name, lambda: work(part))


if __name__ == "__main__":
    main()
