"""Lookups without an exchange, where one rank on a CPU has all tables.

TorchRec's way through a sharded collection (permute, split, exchange, wait, split again) is made for many
ranks and costs the same few milliseconds where there is nobody to exchange with: more than the lookups of a
small step themselves. Parameters, optimizers and states are TorchRec's own in either case.
"""

from typing import Any, TypeAlias, cast

import torch
from torch.nn import functional
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbeddingBag, BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_lookup import GroupedPooledEmbeddingsLookup
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.types import ParameterSharding, ShardingEnv, ShardingType

from trainer.parallel.exchange import ExchangingCollection

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
        # Others have columns to be joined, or a wrapper of their own that counts what passes through it.
        whole = all(each.sharding_type == ShardingType.TABLE_WISE.value for each in params.values())
        alone = env.world_size == 1 and device is not None and device.type == "cpu"
        kind = _DirectCollection if alone and whole else ExchangingCollection
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

    def forward(self, *input: KeyedJaggedTensor, **_: Any) -> Any:
        """Pooled embeddings of each feature as a `KeyedTensor`, (stride, sum of widths)."""
        (features,) = input
        groups: list[tuple[GroupedEmbeddingConfig, Kernel]] = [
            group
            for lookup in cast(list[GroupedPooledEmbeddingsLookup], [*self._lookups])
            for group in zip(lookup.grouped_configs, cast(list[Kernel], lookup._emb_modules), strict=True)
        ]
        pooled = [_pool(config, kernel, features) for config, kernel in groups]
        values = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
        return KeyedTensor(self._embedding_names, self._embedding_dims, values)


def _pool(config: GroupedEmbeddingConfig, kernel: Kernel, features: KeyedJaggedTensor) -> torch.Tensor:
    """Sums of the rows that each bag names, the tables of one kernel side by side."""
    names, keys = config.feature_names(), features.keys()
    mine = features if names == keys else features.permute([keys.index(name) for name in names])
    if isinstance(kernel, BatchedDenseEmbeddingBag) and bool((mine.lengths() == 1).all()):
        return _rows(config, kernel.emb_module.weights, mine.values().view(len(names), mine.stride()))
    return kernel.emb_module(mine.values().long(), mine.offsets().long())


def _rows(config: GroupedEmbeddingConfig, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The row that each id names: torch's own lookup, whose gradient costs less than that of bags.

    Args:
        weights: of all tables of the group, flat and one after another.
        ids: (features, stride) rows.
    """
    shapes = [(table.local_rows, table.local_cols) for table in config.embedding_tables]
    tables = weights.split([rows * columns for rows, columns in shapes])
    return torch.cat(
        [
            functional.embedding(rows, table.view(shape))
            for rows, table, shape in zip(ids, tables, shapes, strict=True)
        ],
        dim=1,
    )
