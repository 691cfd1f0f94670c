"""Precision of matrix products in a training step: those of the dense layers, and candidate scores.

Weights, optimizer states and sums stay float32, and an evaluation is not affected.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.errors import ConfigError


def check_precision(precision: str, device: str) -> None:
    """Refuse a precision that the device does not have.

    Args:
        precision: `float32`, `tf32` or `bfloat16`.
        device: Type of the device, `cpu` or `cuda`.

    Raises:
        ConfigError: naming those that it has.
    """
    if precision == "tf32" and device == "cpu":
        raise ConfigError(
            "--model.precision tf32: the device is cpu, and GPUs alone have it. Use float32, bfloat16 or "
            "--device cuda"
        )


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Let a GPU round the factors of float32 products to 10 bits if the precision is `tf32`."""
    if precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Compute products of a forward pass in bfloat16 if that is the precision; the backward pass follows."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
