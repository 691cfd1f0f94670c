"""Lookups without an exchange, for a rank that has all rows it needs.

A rank has them if it is the only one. On CPU it also has them if all tables are copies, or if a batch uses
rows of its own partitions only; ranks on GPUs leave these two to TorchRec. TorchRec's sharded lookup
(permute, split, exchange, wait, split again) is made for tables on other ranks; without any, it still takes a
few milliseconds, more than the lookups of a small step do. Parameters, optimizers and their state are
TorchRec's in either case.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.types import ParameterSharding, ShardingEnv, ShardingType

from trainer.distributed.shared_memory import SharedBuffers, make_shared_buffers
from trainer.sharding.fbgemm_cpu import Rows
from trainer.sharding.input_dist import InputDistCollection
from trainer.sharding.private_api import (
    BatchedDenseEmbeddingBag,
    EmbeddingBagCollectionSharder,
    GroupedEmbeddingConfig,
    ShardedEmbeddingBagCollection,
    feature_count,
    kernels_of,
    leave_unwrapped,
    lookups_of,
    process_group,
    unwrap,
)

COPIES = ShardingType.DATA_PARALLEL.value


class LocalLookupSharder(EmbeddingBagCollectionSharder):
    """TorchRec's sharder, but for collections that look up directly where they can."""

    def __init__(self, *args: Any, direct: bool = True, **kwargs: Any) -> None:
        """Make a sharder.

        Args:
            *args: Arguments of TorchRec's sharder.
            direct: Whether to look up directly where possible; False: always as TorchRec does.
            **kwargs: Further arguments of TorchRec's sharder.
        """
        super().__init__(*args, **kwargs)
        self._direct = direct

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedEmbeddingBagCollection:
        """Shard a collection over the ranks as TorchRec's sharder does."""
        kinds = {each.sharding_type for each in params.values()}
        able = env.world_size == 1 or _on_cpu(device)
        # Other kinds of sharding have columns to be joined, even on one rank.
        whole = self._direct and able and kinds <= {COPIES, ShardingType.TABLE_WISE.value}
        kind = _LocalLookupCollection if whole else InputDistCollection
        collection: InputDistCollection = kind(
            module,
            params,
            env,
            fused_params=self.fused_params,
            device=device,
            qcomm_codecs_registry=self.qcomm_codecs_registry,
            module_fqn=module_fqn,
        )
        collection.all_here = whole and (kinds == {COPIES} or env.world_size == 1)
        return collection


@dataclass(frozen=True)
class _Group:
    """The tables of one kernel on this rank.

    Attributes:
        config: TorchRec's configuration of the tables.
        kernel: FBGEMM's tables.
        dense: Whether torch's optimizer updates them, after the backward pass.
        rows: Rows of the same tables; None on a GPU, where FBGEMM's module is as fast as its operators.
        gradient_share: Factor of gradients: TorchRec averages over ranks, each of which has its own loss.
    """

    config: GroupedEmbeddingConfig
    kernel: Any
    dense: bool
    rows: Rows | None
    gradient_share: float


class _LocalLookupCollection(InputDistCollection):
    """A sharded collection whose tables are whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Shard the collection; hooks, not DDP, average the gradients of copies over ranks."""
        super().__init__(*args, **kwargs)
        unwrap(self)
        group = process_group(self)
        ranks = dist.get_world_size(group)
        on_cpu = _on_cpu(kwargs.get("device"))
        self._groups = [
            _Group(
                config,
                kernel.emb_module,
                dense=isinstance(kernel, BatchedDenseEmbeddingBag),
                rows=Rows(kernel.emb_module) if on_cpu else None,
                gradient_share=1.0 if copied else 1 / ranks,
            )
            for lookup, copied in lookups_of(self)
            for config, kernel in kernels_of(lookup)
        ]
        for lookup, copied in lookups_of(self):
            for _, kernel in kernels_of(lookup) if copied and ranks > 1 else []:
                weights = cast(torch.Tensor, kernel.emb_module.weights)
                buffers = make_shared_buffers(weights.numel(), group)
                weights.register_post_accumulate_grad_hook(partial(_average, group, ranks, buffers))

    def init_data_parallel(self) -> None:
        """Leave copies without DDP; TorchRec's constructor calls this to wrap them."""
        leave_unwrapped(self)

    def forward(self, *input: KeyedJaggedTensor, **_: Any) -> Any:
        """Return each feature's pooled embeddings as a `KeyedTensor` (stride, sum of widths).

        They are looked up here if all their tables are on this rank, and otherwise as TorchRec does.
        """
        (features,) = input
        if not self.all_here and len(features.keys()) == feature_count(self):
            return super().forward(features)
        pooled = [_pool(group, features) for group in self._groups]
        values = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
        names = [name for group in self._groups for name in group.config.embedding_names()]
        return KeyedTensor(
            names, [width for group in self._groups for width in group.config.embedding_dims()], values
        )


def _on_cpu(device: torch.device | None) -> bool:
    return device is not None and device.type == "cpu"


def _average(group: Any, ranks: int, buffers: SharedBuffers | None, weights: torch.Tensor) -> None:
    """Replace a gradient by its mean over ranks."""
    assert weights.grad is not None
    if buffers is None:
        dist.all_reduce(weights.grad, group=group)
    else:
        first, second, *others = buffers.exchange(weights.grad)
        torch.add(first, second, out=weights.grad)  # three times as fast as torch's sum of all
        for other in others:
            weights.grad += other
    weights.grad /= ranks


def _pool(group: _Group, features: KeyedJaggedTensor) -> torch.Tensor:
    """Return the sums of each bag's rows, the tables of one kernel concatenated."""
    names, keys = group.config.feature_names(), features.keys()
    mine = features if names == keys else features.permute([keys.index(name) for name in names])
    pooled = _sums(group, mine)
    if group.gradient_share != 1 and pooled.requires_grad:
        pooled.register_hook(lambda gradient: gradient * group.gradient_share)
    return pooled


def _sums(group: _Group, features: KeyedJaggedTensor) -> torch.Tensor:
    kernel, ids, lengths = group.kernel, features.values(), features.lengths()
    if group.rows is not None and len(ids) == len(lengths) and (len(ids) == 0 or lengths.numpy().max() == 1):
        by_table = ids.view(len(features.keys()), features.stride())
        if group.dense:
            return _LookedUp.apply(kernel.weights, by_table, group.rows)
        if group.rows.are_updated:
            return _Updated.apply(kernel.placeholder_autograd_tensor, by_table, group.rows)
    return kernel(ids.long(), features.offsets().long())


class _LookedUp(torch.autograd.Function):
    """A lookup in dense tables by bags of one id.

    Its gradient costs a fraction of that of bags, or of torch's own lookup.
    """

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return the rows of all tables, concatenated: (stride, sum of widths).

        Args:
            ctx: Context of the backward pass.
            weights: Values of all tables, flat.
            ids: (tables, stride) int64.
            rows: Rows of the same tables.
        """
        ctx.save_for_backward(ids)
        ctx.rows = rows
        return rows.look_up(ids)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the name of `ctx`
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        return ctx.rows.gradient_of_tables(ids, gradients[0]), None, None


class _Updated(torch.autograd.Function):
    """The same lookup in fused tables, which are updated in the backward pass."""

    @staticmethod
    def forward(ctx: Any, placeholder: torch.Tensor, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return the rows of all tables, concatenated: (stride, sum of widths).

        Args:
            ctx: Context of the backward pass.
            placeholder: FBGEMM's tensor that requires a gradient, so that there is a backward pass.
            ids: (tables, stride) int64.
            rows: Rows of the same tables.
        """
        ctx.save_for_backward(ids)
        ctx.rows = rows
        return rows.look_up(ids)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the name of `ctx`
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.rows.update(ids, gradients[0])
        return None, None, None
