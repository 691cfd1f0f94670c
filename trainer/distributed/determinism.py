"""Trainings that repeat to the last bit on CUDA too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(active: bool) -> Iterator[None]:
    """Have torch and FBGEMM use only deterministic algorithms on CUDA; those of the CPU always are.

    By default some operators, such as `index_add_`, add floats in the order in which GPU threads arrive.
    torch refuses an operator without a deterministic form. Enter this before the first matrix product on a
    GPU, as cuBLAS reads its setting then.

    Args:
        active: False: nothing changes.
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


@contextmanager
def all_algorithms() -> Iterator[None]:
    """Lift `deterministic` for an evaluation.

    None of its operators adds floats in a random order, but torch refuses one of them, `cumsum` of floats.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if before:
        torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        if before:
            torch.use_deterministic_algorithms(True)
