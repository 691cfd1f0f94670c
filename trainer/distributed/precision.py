"""In what precision a step multiplies matrices: those of the dense layers, and the scores of all candidates.

Weights, optimizer states and whatever is summed up stay float32, and an evaluation knows nothing of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.errors import ConfigError


def check_precision(precision: str, device: str) -> None:
    """Refuse a precision that the device does not have.

    Raises: ConfigError naming those that it has.
    """
    if precision == "tf32" and device == "cpu":
        raise ConfigError(
            "--model.precision tf32: the device is cpu, and GPUs alone have it. Use float32, bfloat16 or "
            "--device cuda"
        )


@contextmanager
def products_in(precision: str) -> Iterator[None]:
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


def forward_in(precision: str, device: torch.device) -> torch.autocast:
    """Products of a forward pass in bfloat16 if that is the precision; the backward pass follows it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
