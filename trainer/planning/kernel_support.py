"""Which optimizer trains which kind of sharding, by which kernel, in which type, on which device."""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.errors import ConfigError
from trainer.facts.sharding_kinds import SHARDING_KINDS, ShardingKind, sharding_kind


@dataclass(frozen=True)
class TableOptimizer:
    """An optimizer of tables.

    Attributes:
        fused_on: Devices on which FBGEMM runs it in the backward pass.
        state_values: Float32 values of its state, from a shard's rows and columns.
        dense: Whether it is the same optimizer when it runs after the backward pass.
    """

    fused_on: tuple[str, ...]
    state_values: Callable[[int, int], int]
    dense: bool = True


OPTIMIZERS = {
    "rowwise_adagrad": TableOptimizer(("cpu", "cuda"), lambda rows, columns: rows),
    "adagrad": TableOptimizer(("cpu", "cuda"), lambda rows, columns: rows * columns),
    "sgd": TableOptimizer(("cpu", "cuda"), lambda rows, columns: 0),
    "adam": TableOptimizer((), lambda rows, columns: 2 * rows * columns),
    "adam_fused": TableOptimizer(("cuda",), lambda rows, columns: 2 * rows * columns, dense=False),
}
"""Optimizers of tables by name.

Fused and dense kernels give the same weights, but for Adam: its means decay and its weights move in every row
at every step, whereas FBGEMM updates only looked-up rows. FBGEMM's Adam is therefore a separate optimizer.
"""


def _fused_on(device: str) -> str:
    return ", ".join(name for name, optimizer in OPTIMIZERS.items() if device in optimizer.fused_on)


def compute_kernel(optimizer: str, sharding: str, device: str) -> str:
    """Return the kernel that trains a table: `fused` in the backward pass, or `dense` after it.

    Args:
        optimizer: Optimizer of the tables.
        sharding: Kind of sharding.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: The combination does not exist; the message names those that do.
    """
    kind, known = sharding_kind(sharding), OPTIMIZERS[optimizer]
    if device not in kind.devices:
        raise ConfigError(_not_on_device(kind, device))
    if not known.dense and device not in known.fused_on:
        raise ConfigError(
            f"--optimizer.name {optimizer}: not on {device.upper()}, where FBGEMM has no fused Adam. "
            "Use --optimizer.name adam, which updates all rows in every step, or --device cuda"
        )
    if "fused" in kind.kernels and device in known.fused_on:
        return "fused"
    if "dense" in kind.kernels and known.dense:
        return "dense"
    if not known.dense:
        raise ConfigError(
            f"--optimizer.name {optimizer}: not with --sharding.kind {sharding}, which has a dense kernel "
            "alone. Use --optimizer.name adam, or another kind of sharding"
        )
    dense = [name for name, other in SHARDING_KINDS.items() if "dense" in other.kernels]
    raise ConfigError(
        f"--optimizer.name {optimizer}: not with --sharding.kind {sharding}, which has no dense kernel. "
        f"Use --sharding.kind {', '.join(dense[:-1])} or {dense[-1]}, or one of {_fused_on(device)}"
    )


def _not_on_device(kind: ShardingKind, device: str) -> str:
    here = [other for other in SHARDING_KINDS.values() if device in other.devices]
    torchrec = [other.name for other in here if other.name == other.torchrec_name]
    ours = [other.name for other in here if other.name != other.torchrec_name]
    place, others = device.upper(), " or ".join(f"--device {other}" for other in kind.devices)
    return (
        f"--sharding.kind {kind.name}: not on {place}, where TorchRec has {', '.join(torchrec)}. "
        f"Use one of these, {', '.join(ours)}, or {others}"
    )


def check_dtype(dtype: str, optimizer: str, sharding: str, device: str) -> None:
    """Refuse tables of a type that their kernel cannot train, or not well.

    Args:
        dtype: Type of the tables' values, as `--model.table_dtype` takes it.
        optimizer: Optimizer of the tables.
        sharding: Kind of sharding.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: The kernel does not have the type, or see `compute_kernel`.
    """
    if compute_kernel(optimizer, sharding, device) == "fused" or dtype == "float32":
        return
    always_dense = "fused" not in sharding_kind(sharding).kernels
    cause = f"--sharding.kind {sharding}" if always_dense else f"--optimizer.name {optimizer}"
    remedy = "another kind of sharding" if always_dense else f"one of {_fused_on(device)}"
    raise ConfigError(
        f"--model.table_dtype {dtype}: not with {cause}, whose dense kernel keeps gradients and optimizer "
        f"state in the tables' type. Use {remedy}, or float32"
    )


def optimizer_bytes(optimizer: str, kernel: str, rows: int, columns: int) -> int:
    """Return the bytes of a shard's optimizer state, and of a dense kernel's gradient."""
    gradient = rows * columns if kernel == "dense" else 0
    return 4 * (OPTIMIZERS[optimizer].state_values(rows, columns) + gradient)
