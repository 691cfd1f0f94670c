"""Trainings that repeat to the last bit on CUDA too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(active: bool) -> Iterator[None]:
    """Have torch and FBGEMM use deterministic algorithms alone on CUDA; those of the CPU always are.

    Some operators add floats in whatever order threads arrive, as `index_add_` does; others are refused, by
    torch itself, where there is no deterministic form. Enter it before the first matrix product on a GPU:
    cuBLAS reads its setting then.
    """
    if not active or not torch.cuda.is_available():
        yield
        return
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        if workspace is None:
            del os.environ[CUBLAS]
