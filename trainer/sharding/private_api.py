"""Every private or unstable name of torch, TorchRec and FBGEMM that the package uses, checked at import.

No other module of this room, or above it, uses such names. A release that renames or removes one of them is
refused with one sentence before training begins, instead of failing with an AttributeError in the first step.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast
from weakref import ref

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from trainer.sharding.version_check import check, unsupported

try:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
    from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, ShardedTensorMetadata
    from torch.distributed._shard.sharding_spec import EnumerableShardingSpec, ShardMetadata
    from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
    from torchrec.distributed import comm
    from torchrec.distributed.batched_embedding_kernel import (
        BatchedDenseEmbeddingBag,
        BatchedFusedEmbeddingBag,
        EmbeddingFusedOptimizer,
    )
    from torchrec.distributed.embedding_lookup import GroupedPooledEmbeddingsLookup
    from torchrec.distributed.embedding_types import GroupedEmbeddingConfig, KJTList
    from torchrec.distributed.embeddingbag import (
        EmbeddingBagCollectionContext,
        EmbeddingBagCollectionSharder,
        ShardedEmbeddingBagCollection,
    )
    from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
    from torchrec.distributed.sharding.dp_sharding import DpPooledEmbeddingSharding
    from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
    from torchrec.optim.optimizers import in_backward_optimizer_filter
except ImportError as error:
    raise unsupported(str(error)) from error

__all__ = [
    "CombinedOptimizer",
    "DefaultDataParallelWrapper",
    "EmbOptimType",
    "EmbeddingBagCollectionContext",
    "EmbeddingBagCollectionSharder",
    "EnumerableShardingSpec",
    "GroupedEmbeddingConfig",
    "KJTList",
    "KeyedOptimizer",
    "KeyedOptimizerWrapper",
    "PoolingMode",
    "Shard",
    "ShardMetadata",
    "ShardedEmbeddingBagCollection",
    "ShardedTensor",
    "ShardedTensorMetadata",
    "SparseType",
    "apply_optimizer_in_backward",
    "in_backward_optimizer_filter",
]

Kernel: TypeAlias = BatchedDenseEmbeddingBag | BatchedFusedEmbeddingBag
"""TorchRec's kernels of tables in memory."""
Lookup: TypeAlias = GroupedPooledEmbeddingsLookup
"""TorchRec's lookup of the tables on this rank that are sharded alike."""

_LAYOUT = {
    "weights_offsets": "tells where a table's values begin",
    "D_offsets": "tells where a table's columns begin",
    "total_D": "is the width of all tables together",
    "max_D": "is the width of the widest table",
    "hash_size_cumsum": "tells where a table's rows begin",
    "total_hash_size_bits": "is an argument of the backward operators",
}
ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "torch.distributed.optim": {
        "_apply_optimizer_in_backward": "attaches a fused optimizer to a table before it is sharded",
    },
    "torch.distributed._shard.sharded_tensor.ShardedTensor": {
        "local_shards()": "gives this rank's shards of a table",
        "metadata()": "tells how a table lies over ranks",
        "_init_from_local_shards_and_global_metadata()": "makes a table of partitions, a state, or a copy",
    },
    "torch.distributed._shard.sharding_spec.ShardMetadata": {
        "placement": "tells which rank and device hold a shard",
    },
    "torchrec.distributed.embeddingbag.ShardedEmbeddingBagCollection": {
        "_embedding_shardings": "tells copies from tables of one rank",
        "_lookups": "holds the lookups of this rank's tables, which are called without an exchange",
        "_embedding_names": "tells how many features a whole lookup has",
        "_env": "holds the process group over which gradients of copies are averaged",
        "create_context()": "keeps what an exchange of ids needs later",
        "input_dist()": "sends ids ahead of the step that looks them up",
        "compute_and_output_dist()": "looks up ids that have arrived",
    },
    "torchrec.distributed.embedding_lookup.GroupedPooledEmbeddingsLookup": {
        "_emb_modules": "holds the kernels of a lookup",
        "grouped_configs": "names the tables of each kernel",
    },
    "torchrec.distributed.batched_embedding_kernel.BatchedDenseEmbeddingBag": {
        "emb_module": "holds FBGEMM's tables of a dense kernel",
    },
    "torchrec.distributed.batched_embedding_kernel.BatchedFusedEmbeddingBag": {
        "emb_module": "holds FBGEMM's tables of a fused kernel",
    },
    "torchrec.distributed.batched_embedding_kernel.EmbeddingFusedOptimizer": {
        "_emb_module": "holds FBGEMM's tables, whose step is set through their optimizer",
    },
    "torchrec.distributed.comm": {
        "_INTRA_PG": "outlives the process group in which table_row_wise made it",
        "_CROSS_PG": "outlives the process group in which table_row_wise made it",
    },
    "torchrec.optim.keyed.KeyedOptimizerWrapper": {
        "_optimizer": "is torch's own optimizer, which is stepped without its wrapper",
    },
    "fbgemm_gpu.split_table_batched_embeddings_ops_training.DenseTableBatchedEmbeddingBagsCodegen": {
        "weights": "holds the values of all tables, flat and one after another",
        **_LAYOUT,
    },
    "fbgemm_gpu.split_table_batched_embeddings_ops_training.SplitTableBatchedEmbeddingBagsCodegen": {
        "weights_host": "holds the values of all tables, flat and one after another",
        "weights_placements": "is an argument of the update operators",
        **_LAYOUT,
        "momentum1_host": "holds the sums of Adagrad",
        "momentum1_placements": "is an argument of the Adagrad operators",
        "momentum1_offsets": "tells where a table's sums begin",
        "learning_rate_tensor": "is the learning rate of the current step",
        "optimizer": "names the optimizer",
        "optimizer_args": "holds its epsilon and its weight decay",
        "placeholder_autograd_tensor": "needs a gradient, so that there is a backward pass",
        "set_optimizer_step()": "sets the step by which Adam corrects its means",
        "iter_cpu": "is the copy of that step which the kernel is given",
    },
}
"""What each private name is used for, by the module or class that has it; methods end with `()`."""

_BAGS = ("indices", "offsets", "pooling_mode", "indice_weights")
_GRADIENT = ("grad_output", "host_weights")
_SIZES = ("weights_offsets", "D_offsets", "max_D", "hash_size_cumsum", "total_hash_size_bits")
_UPDATE = (*_GRADIENT, "weights_placements", *_SIZES, *_BAGS, "stochastic_rounding")
_ADAGRAD = (
    *(*_UPDATE, "momentum1_host", "momentum1_placements", "momentum1_offsets"),
    *("learning_rate_tensor", "eps"),
)
OPERATORS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "split_embedding_codegen_forward_cpu": (
        "looks up rows on CPU",
        ("weights", "weights_offsets", "D_offsets", "total_D", "hash_size_cumsum", *_BAGS, "output_dtype"),
    ),
    "split_embedding_backward_codegen_dense_cpu": (
        "adds up the gradient of dense tables on CPU",
        (*_GRADIENT, *_SIZES, *_BAGS, "unused"),
    ),
    "split_embedding_backward_codegen_rowwise_adagrad_cpu": ("updates rows on CPU", _ADAGRAD),
    "split_embedding_backward_codegen_adagrad_cpu": ("updates rows on CPU", _ADAGRAD),
    "split_embedding_backward_codegen_sgd_cpu": ("updates rows on CPU", (*_UPDATE, "learning_rate_tensor")),
}
"""What each of FBGEMM's operators is used for, and its arguments in order; further ones have defaults."""


check(ATTRIBUTES, OPERATORS)

look_up_rows: Any = torch.ops.fbgemm.split_embedding_codegen_forward_cpu
gradient_of_dense_tables: Any = torch.ops.fbgemm.split_embedding_backward_codegen_dense_cpu
UPDATE_ROWS: Mapping[EmbOptimType, Any] = {
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: (
        torch.ops.fbgemm.split_embedding_backward_codegen_rowwise_adagrad_cpu
    ),
    EmbOptimType.EXACT_ADAGRAD: torch.ops.fbgemm.split_embedding_backward_codegen_adagrad_cpu,
    EmbOptimType.EXACT_SGD: torch.ops.fbgemm.split_embedding_backward_codegen_sgd_cpu,
}
"""Operators that update looked-up rows on CPU, by optimizer."""


def host_values(tables: Any) -> torch.Tensor:
    """Return the values of FBGEMM's tables on CPU, flat and one after another; they keep their place."""
    return (tables.weights_host if is_fused(tables) else tables.weights).detach()


def is_fused(tables: Any) -> bool:
    """Tell whether FBGEMM's tables are updated in the backward pass."""
    return hasattr(tables, "weights_host")


def forward_layout(tables: Any) -> tuple[Any, ...]:
    """Return how FBGEMM's tables lie in memory, as `look_up_rows` takes it."""
    return tables.weights_offsets, tables.D_offsets, tables.total_D, tables.hash_size_cumsum


def backward_layout(tables: Any) -> tuple[Any, ...]:
    """Return how FBGEMM's tables lie in memory, as the backward operators take it."""
    return (
        *(tables.weights_offsets, tables.D_offsets, tables.max_D),
        *(tables.hash_size_cumsum, tables.total_hash_size_bits),
    )


def update_layout(tables: Any) -> tuple[Any, ...]:
    """Return how FBGEMM's fused tables lie in memory, as `UPDATE_ROWS` take it."""
    return tables.weights_placements, *backward_layout(tables)


def update_arguments(tables: Any) -> tuple[Any, ...]:
    """Return optimizer state and settings of FBGEMM's fused tables, as `UPDATE_ROWS` take them last."""
    rate = tables.learning_rate_tensor
    if tables.optimizer == EmbOptimType.EXACT_SGD:
        return (rate,)
    sums = tables.momentum1_host.detach(), tables.momentum1_placements, tables.momentum1_offsets
    return (*sums, rate, tables.optimizer_args.eps)


def sharded_tensor(shards: list[Shard], metadata: ShardedTensorMetadata) -> ShardedTensor:
    """Make a sharded tensor of this rank's shards and of what is known of all; nothing is exchanged."""
    return ShardedTensor._init_from_local_shards_and_global_metadata(shards, metadata)


def process_group(collection: ShardedEmbeddingBagCollection) -> Any:
    """Return the process group over which a collection is sharded."""
    return collection._env.process_group


def feature_count(collection: ShardedEmbeddingBagCollection) -> int:
    """Return how many features a collection has over all ranks."""
    return len(collection._embedding_names)


def lookups_of(collection: ShardedEmbeddingBagCollection) -> list[tuple[Lookup, bool]]:
    """Return this rank's lookups, and of each whether its tables are copies on every rank."""
    found = zip(collection._embedding_shardings, collection._lookups, strict=True)
    return [(cast(Lookup, lookup), isinstance(kind, DpPooledEmbeddingSharding)) for kind, lookup in found]


def leave_unwrapped(collection: ShardedEmbeddingBagCollection) -> None:
    """Make the lookups of copies look as if DDP wrapped them, as the constructor expects.

    TorchRec calls this from 1.7 on, as `init_data_parallel`; before, it wraps them whatever a subclass does.
    """
    for lookup, copied in lookups_of(collection):
        if copied:
            object.__setattr__(lookup, "module", lookup)


def unwrap(collection: ShardedEmbeddingBagCollection) -> None:
    """Take DDP away from the lookups of copies, where the constructor of TorchRec 1.6 has wrapped them."""
    for number, lookup in enumerate(collection._lookups):
        if isinstance(lookup, DistributedDataParallel):
            collection._lookups[number] = lookup.module


def kernels_of(lookup: Lookup) -> list[tuple[GroupedEmbeddingConfig, Kernel]]:
    """Return the kernels of a lookup, each with its tables' configuration."""
    return [*zip(lookup.grouped_configs, cast(list[Kernel], lookup._emb_modules), strict=True)]


def fused_tables(optimizer: CombinedOptimizer) -> list[Any]:
    """Return FBGEMM's tables that an optimizer has updated in the backward pass."""
    found = []
    for _, keyed in optimizer.optimizers:
        if isinstance(keyed, CombinedOptimizer):
            found += fused_tables(keyed)
        elif isinstance(keyed, EmbeddingFusedOptimizer):
            found.append(keyed._emb_module)
    return found


def step_is(tables: Any, step: int) -> bool:
    """Tell whether FBGEMM's tables count `step` steps; no device is waited for."""
    return int(tables.iter_cpu) == step


def set_step_of_tables(tables: Any, step: int) -> None:
    """Have FBGEMM's tables count from `step` steps on.

    The kernel is given `iter_cpu`, which FBGEMM takes over from its other counter only where it is 0.
    """
    tables.set_optimizer_step(step)
    tables.iter_cpu.fill_(step)


_made_in: Any = None
"""Weak reference to the process group in which TorchRec may have made groups of hosts."""


def forget_groups_of_another_world() -> None:
    """Have TorchRec make its groups of hosts anew, where it made them in a process group that is gone.

    It keeps them in globals, for `table_row_wise`; a second training in one process would use destroyed ones.
    """
    global _made_in
    world = dist.group.WORLD
    if world is not None and (_made_in is None or _made_in() is not world):
        comm._INTRA_PG = comm._CROSS_PG = None
        _made_in = ref(world)


def step_without_wrapper(keyed: KeyedOptimizerWrapper) -> None:
    """Step torch's optimizer; TorchRec's wrapper, with nothing to add, takes as long as a small lookup."""
    keyed._optimizer.step()
