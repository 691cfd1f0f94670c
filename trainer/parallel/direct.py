"""Lookups without an exchange, where a rank on a CPU has all tables: as the only rank, or as copies.

TorchRec's way through a sharded collection (permute, split, exchange, wait, split again) is made for tables
that lie elsewhere and costs the same few milliseconds where they do not: more than the lookups of a small
step themselves. Parameters, optimizers and states are TorchRec's own in either case.
"""

from functools import partial
from typing import Any, TypeAlias, cast

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch.autograd.function import once_differentiable
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbeddingBag, BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_lookup import GroupedPooledEmbeddingsLookup
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.sharding.dp_sharding import DpPooledEmbeddingSharding
from torchrec.distributed.types import ParameterSharding, ShardingEnv, ShardingType

from trainer.parallel.exchange import ExchangingCollection
from trainer.parallel.row_wise_adagrad import is_faster, row_wise_adagrad
from trainer.parallel.shared_memory import SharedMean, shared_mean

COPIES = ShardingType.DATA_PARALLEL.value
Kernel: TypeAlias = BatchedDenseEmbeddingBag | BatchedFusedEmbeddingBag
"""TorchRec's kernels of tables in memory."""


class DirectSharder(EmbeddingBagCollectionSharder):
    """Makes collections that look up directly where they can."""

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedEmbeddingBagCollection:
        """The module laid over the ranks as TorchRec's own sharder does it."""
        kinds = {each.sharding_type for each in params.values()}
        on_cpu = device is not None and device.type == "cpu"
        # Under other plans there are columns to be joined, even on one rank.
        here = kinds == {COPIES} or (env.world_size == 1 and kinds <= {COPIES, ShardingType.TABLE_WISE.value})
        kind = _DirectCollection if on_cpu and here else ExchangingCollection
        return kind(
            module,
            params,
            env,
            fused_params=self.fused_params,
            device=device,
            qcomm_codecs_registry=self.qcomm_codecs_registry,
            module_fqn=module_fqn,
        )


class _DirectCollection(ShardedEmbeddingBagCollection):
    """A sharded collection all of whose tables are here, each in one piece."""

    def init_data_parallel(self) -> None:
        """Have the gradients of copies averaged over ranks as soon as they are known."""
        for sharding, lookup in zip(self._embedding_shardings, self._lookups, strict=True):
            if isinstance(sharding, DpPooledEmbeddingSharding):
                object.__setattr__(lookup, "module", lookup)  # TorchRec unwraps DDP without asking
        for _, kernel in self._groups() if self._env.world_size > 1 else []:
            weights = cast(torch.Tensor, kernel.emb_module.weights)
            together = shared_mean(weights.numel(), self._env.process_group)
            weights.register_post_accumulate_grad_hook(partial(_average, self._env, together))

    def forward(self, *input: KeyedJaggedTensor, **_: Any) -> Any:
        """Pooled embeddings of each feature as a `KeyedTensor`, (stride, sum of widths)."""
        (features,) = input
        pooled = [_pool(config, kernel, features) for config, kernel in self._groups()]
        values = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
        return KeyedTensor(self._embedding_names, self._embedding_dims, values)

    def _groups(self) -> list[tuple[GroupedEmbeddingConfig, Kernel]]:
        return [
            group
            for lookup in cast(list[GroupedPooledEmbeddingsLookup], [*self._lookups])
            for group in zip(lookup.grouped_configs, cast(list[Kernel], lookup._emb_modules), strict=True)
        ]


def _average(env: ShardingEnv, together: SharedMean | None, weights: torch.Tensor) -> None:
    assert weights.grad is not None
    if together is not None:
        together(weights.grad)
        return
    dist.all_reduce(weights.grad, group=env.process_group)
    weights.grad /= env.world_size


def _pool(config: GroupedEmbeddingConfig, kernel: Kernel, features: KeyedJaggedTensor) -> torch.Tensor:
    """Sums of the rows that each bag names, the tables of one kernel side by side."""
    names, keys = config.feature_names(), features.keys()
    mine = features if names == keys else features.permute([keys.index(name) for name in names])
    inside: Any = kernel.emb_module
    if bool((mine.lengths() == 1).all()):
        ids = mine.values().view(len(names), mine.stride())
        shapes = [(table.local_rows, table.local_cols) for table in config.embedding_tables]
        if isinstance(kernel, BatchedDenseEmbeddingBag):
            return _Rows.apply(inside.weights, ids, shapes)
        if _is_row_wise_adagrad(inside) and all(is_faster(mine.stride(), *shape) for shape in shapes):
            return _UpdatedRows.apply(inside.placeholder_autograd_tensor, ids, shapes, inside)
    return inside(mine.values().long(), mine.offsets().long())


def _is_row_wise_adagrad(kernel: Any) -> bool:
    plain = kernel.optimizer_args.weight_decay == 0 and kernel.weights_host.dtype == torch.float32
    return plain and kernel.optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD


class _Rows(torch.autograd.Function):
    """The row that each id names; its gradient costs a fraction of that of bags, or of torch's own lookup."""

    @staticmethod
    def forward(
        ctx: Any, weights: torch.Tensor, ids: torch.Tensor, shapes: list[tuple[int, int]]
    ) -> torch.Tensor:
        """Rows of all tables side by side, (stride, sum of widths).

        Args:
            weights: of all tables, flat and one after another.
            ids: (tables, stride) rows.
            shapes: rows and width of each table.
        """
        ctx.save_for_backward(ids)
        ctx.shapes, ctx.size = shapes, weights.numel()
        return _look_up(_tables(weights, shapes), ids)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the name of `ctx`
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        total = gradients[0].new_zeros(ctx.size)
        parts = gradients[0].split([width for _, width in ctx.shapes], dim=1)
        for table, rows, part in zip(_tables(total, ctx.shapes), ids, parts, strict=True):
            table.index_add_(0, rows, part)
        return total, None, None


class _UpdatedRows(torch.autograd.Function):
    """The same for a fused kernel of row-wise Adagrad, whose tables are updated in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        placeholder: torch.Tensor,
        ids: torch.Tensor,
        shapes: list[tuple[int, int]],
        kernel: Any,
    ) -> torch.Tensor:
        """Rows of all tables side by side, (stride, sum of widths).

        Args: placeholder: FBGEMM's own, which needs a gradient, so that there is a backward pass.
        """
        ctx.save_for_backward(ids)
        ctx.shapes, ctx.kernel = shapes, kernel
        return _look_up(_tables(kernel.weights_host.detach(), shapes), ids)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the name of `ctx`
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[None, None, None, None]:
        (ids,), kernel = ctx.saved_tensors, ctx.kernel
        tables = _tables(kernel.weights_host.detach(), ctx.shapes)
        sums = kernel.momentum1_host.split([rows for rows, _ in ctx.shapes])
        parts = gradients[0].split([width for _, width in ctx.shapes], dim=1)
        rate, epsilon = kernel.learning_rate_tensor.item(), kernel.optimizer_args.eps
        for table, own, rows, part in zip(tables, sums, ids, parts, strict=True):
            row_wise_adagrad(table, own, rows, part, rate, epsilon)
        return None, None, None, None


def _look_up(tables: list[torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    found = [table.index_select(0, rows) for table, rows in zip(tables, ids, strict=True)]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _tables(flat: torch.Tensor, shapes: list[tuple[int, int]]) -> list[torch.Tensor]:
    parts = flat.split([rows * width for rows, width in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
