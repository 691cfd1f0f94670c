"""Which optimizer runs by which kernel, under which sharding, in which type, on which device."""

from trainer.errors import ConfigError

FUSED_ON_CPU = ("rowwise_adagrad", "adagrad", "sgd")


CPU_SHARDINGS = ("table_wise", "column_wise", "table_column_wise", "data_parallel")


SHARDINGS = (*CPU_SHARDINGS, "row_wise", "table_row_wise")


def compute_kernel(optimizer: str, sharding: str, device: str) -> str:
    """Kernel that runs an optimizer under a sharding on a device: `fused` in the backward pass, or `dense`.

    Raises: ConfigError for a combination that does not exist, naming those that do.
    """
    if device == "cpu" and sharding not in CPU_SHARDINGS:
        raise ConfigError(
            f"--sharding.kind {sharding}: not on CPU, where TorchRec has {', '.join(CPU_SHARDINGS)}. "
            "Use one of these, row_partitioned, or --device cuda"
        )
    if sharding == "data_parallel":
        return "dense"
    if optimizer == "adam" and device == "cpu":
        if sharding != "table_wise":
            raise ConfigError(
                f"--optimizer.name adam: not with --sharding.kind {sharding} on CPU, where FBGEMM has "
                "no fused Adam. Use --sharding.kind table_wise, row_partitioned or data_parallel, "
                f"--device cuda, or one of {', '.join(FUSED_ON_CPU)}"
            )
        return "dense"
    return "fused"


def check_dtype(dtype: str, optimizer: str, sharding: str, device: str) -> None:
    """Refuse tables of a type that the kernel cannot train, or could not train well.

    Raises: ConfigError for the type, or as `compute_kernel`.
    """
    if compute_kernel(optimizer, sharding, device) == "fused" or dtype == "float32":
        return
    copied = sharding == "data_parallel"
    place = "--sharding.kind data_parallel" if copied else f"--optimizer.name {optimizer} on CPU"
    other = "another kind of sharding" if copied else f"one of {', '.join(FUSED_ON_CPU)}"
    raise ConfigError(
        f"--model.table_dtype {dtype}: not with {place}, whose dense kernel keeps gradients and optimizer "
        f"state in the tables' type. Use {other}, or float32"
    )


def optimizer_bytes(optimizer: str, kernel: str, rows: int, columns: int) -> int:
    """Bytes beside the weights of a shard: the optimizer's state, and a dense kernel's gradient."""
    values = {"sgd": 0, "rowwise_adagrad": rows, "adagrad": rows * columns, "adam": 2 * rows * columns}
    return 4 * (values[optimizer] + (rows * columns if kernel == "dense" else 0))
