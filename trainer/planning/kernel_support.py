"""Which optimizer runs by which kernel, under which sharding, in which type, on which device."""

from trainer.errors import ConfigError

CPU_SHARDINGS = ("table_wise", "column_wise", "table_column_wise", "data_parallel")
SHARDINGS = (*CPU_SHARDINGS, "row_wise", "table_row_wise")
KERNELS = {
    "rowwise_adagrad": {"cpu": "fused", "cuda": "fused"},
    "adagrad": {"cpu": "fused", "cuda": "fused"},
    "sgd": {"cpu": "fused", "cuda": "fused"},
    "adam": {"cpu": "dense", "cuda": "dense"},
    "adam_fused": {"cuda": "fused"},
}
"""Kernel of tables that are not copied, by optimizer and device.

Fused and dense kernels of one optimizer give the same weights, but for Adam: its dense kernel has the means
decay and the weights move in every row at every step, and its fused one in rows that are looked up alone.
"""


def compute_kernel(optimizer: str, sharding: str, device: str) -> str:
    """Return the kernel of an optimizer: `fused` updates in the backward pass, `dense` after it.

    Raises:
        ConfigError: The combination does not exist; the message names those that do.
    """
    if device == "cpu" and sharding not in CPU_SHARDINGS:
        raise ConfigError(
            f"--sharding.kind {sharding}: not on CPU, where TorchRec has {', '.join(CPU_SHARDINGS)}. "
            "Use one of these, row_partitioned, or --device cuda"
        )
    kernel = KERNELS[optimizer].get(device)
    if kernel is None:
        raise ConfigError(
            f"--optimizer.name {optimizer}: not on CPU, where FBGEMM has no fused Adam. "
            "Use --optimizer.name adam, which updates all rows in every step, or --device cuda"
        )
    if sharding == "data_parallel":
        if optimizer == "adam_fused":
            raise ConfigError(
                "--optimizer.name adam_fused: not with --sharding.kind data_parallel, as copies have dense "
                "kernels alone. Use --optimizer.name adam, or another kind of sharding"
            )
        return "dense"
    if kernel == "dense" and sharding != "table_wise":
        raise ConfigError(
            f"--optimizer.name {optimizer}: not with --sharding.kind {sharding}, as its kernel is dense. "
            f"Use --sharding.kind table_wise, row_partitioned or data_parallel, or one of {_fused_on(device)}"
        )
    return kernel


def check_dtype(dtype: str, optimizer: str, sharding: str, device: str) -> None:
    """Refuse tables of a type that the kernel cannot train, or could not train well.

    Raises:
        ConfigError: For the type, or as `compute_kernel`.
    """
    if compute_kernel(optimizer, sharding, device) == "fused" or dtype == "float32":
        return
    copied = sharding == "data_parallel"
    place = "--sharding.kind data_parallel" if copied else f"--optimizer.name {optimizer}"
    other = "another kind of sharding" if copied else f"one of {_fused_on(device)}"
    raise ConfigError(
        f"--model.table_dtype {dtype}: not with {place}, whose dense kernel keeps gradients and optimizer "
        f"state in the tables' type. Use {other}, or float32"
    )


def _fused_on(device: str) -> str:
    return ", ".join(name for name, kernels in KERNELS.items() if kernels.get(device) == "fused")


def optimizer_bytes(optimizer: str, kernel: str, rows: int, columns: int) -> int:
    """Return the bytes of a shard besides its weights: optimizer state, and a dense kernel's gradient."""
    cells = rows * columns
    values = {"sgd": 0, "rowwise_adagrad": rows, "adagrad": cells, "adam": 2 * cells, "adam_fused": 2 * cells}
    return 4 * (values[optimizer] + (cells if kernel == "dense" else 0))
