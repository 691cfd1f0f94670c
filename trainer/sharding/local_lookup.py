"""Lookups without an exchange, where a rank on a CPU has all rows that it asks for.

It has them as the only rank, as copies, or because a batch asks for rows of its own partitions alone.
TorchRec's way through a sharded collection (permute, split, exchange, wait, split again) is made for tables
that lie elsewhere and costs the same few milliseconds where they do not: more than the lookups of a small
step themselves. Parameters, optimizers and states are TorchRec's own in either case.
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
    """Makes collections that look up directly where they can."""

    def __init__(self, *args: Any, direct: bool = True, **kwargs: Any) -> None:
        """Make TorchRec's own sharder, to which this one adds collections of its own.

        Args:
            args, kwargs: As TorchRec's own sharder takes them.
            direct: False: all lookups go TorchRec's way.
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
        """The module laid over the ranks as TorchRec's own sharder does it."""
        kinds = {each.sharding_type for each in params.values()}
        on_cpu = device is not None and device.type == "cpu"
        # Under other plans there are columns to be joined, even on one rank.
        whole = self._direct and on_cpu and kinds <= {COPIES, ShardingType.TABLE_WISE.value}
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
    """Tables of one kernel on this rank.

    Attributes:
        config: TorchRec's.
        kernel: FBGEMM's tables; `dense` if an optimizer of torch's updates them.
        rows: the same tables' rows.
        gradient_share: what a gradient counts: TorchRec takes the mean over ranks, where each has a loss of
            its own.
    """

    config: GroupedEmbeddingConfig
    kernel: Any
    dense: bool
    rows: Rows
    gradient_share: float


class _LocalLookupCollection(InputDistCollection):
    """A sharded collection each of whose tables is in one piece."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Have the gradients of copies averaged over ranks as soon as they are known, without DDP."""
        super().__init__(*args, **kwargs)
        unwrap(self)
        group = process_group(self)
        ranks = dist.get_world_size(group)
        self._groups = [
            _Group(
                config,
                kernel.emb_module,
                dense=isinstance(kernel, BatchedDenseEmbeddingBag),
                rows=Rows(kernel.emb_module),
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
        """Leave out the DDP that TorchRec would wrap copies in; its constructor calls this."""
        leave_unwrapped(self)

    def forward(self, *input: KeyedJaggedTensor, **_: Any) -> Any:
        """Pooled embeddings of each feature as a `KeyedTensor`, (stride, sum of widths).

        Features of this rank's own tables alone are looked up here, all of them where those are.
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


def _average(group: Any, ranks: int, buffers: SharedBuffers | None, weights: torch.Tensor) -> None:
    assert weights.grad is not None
    if buffers is None:
        dist.all_reduce(weights.grad, group=group)
    else:
        first, second, *others = buffers.exchange(weights.grad)
        torch.add(first, second, out=weights.grad)  # torch's own sum of them takes three times as long
        for other in others:
            weights.grad += other
    weights.grad /= ranks


def _pool(group: _Group, features: KeyedJaggedTensor) -> torch.Tensor:
    """Sums of the rows that each bag names, the tables of one kernel side by side."""
    names, keys = group.config.feature_names(), features.keys()
    mine = features if names == keys else features.permute([keys.index(name) for name in names])
    pooled = _sums(group, mine)
    if group.gradient_share != 1 and pooled.requires_grad:
        pooled.register_hook(lambda gradient: gradient * group.gradient_share)
    return pooled


def _sums(group: _Group, features: KeyedJaggedTensor) -> torch.Tensor:
    kernel, ids, lengths = group.kernel, features.values(), features.lengths()
    if len(ids) == len(lengths) and (len(ids) == 0 or lengths.numpy().max() == 1):
        by_table = ids.view(len(features.keys()), features.stride())
        if group.dense:
            return _LookedUp.apply(kernel.weights, by_table, group.rows)
        if group.rows.are_updated:
            return _Updated.apply(kernel.placeholder_autograd_tensor, by_table, group.rows)
    return kernel(ids.long(), features.offsets().long())


class _LookedUp(torch.autograd.Function):
    """The rows that ids name; their gradient costs a fraction of that of bags, or of torch's own lookup."""

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Rows of all tables side by side, (stride, sum of widths).

        Args:
            weights: of all tables, flat and one after another.
            ids: (tables, stride).
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
    """The same for a fused kernel, whose tables are updated in the backward pass."""

    @staticmethod
    def forward(ctx: Any, placeholder: torch.Tensor, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Rows of all tables side by side, (stride, sum of widths).

        Args: placeholder: FBGEMM's own, which needs a gradient, so that there is a backward pass.
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
