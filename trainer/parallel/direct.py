"""Lookups without an exchange, where one rank on a CPU has all tables.

TorchRec's way through a sharded collection (permute, split, exchange, wait, split again) is made for many
ranks and costs the same few milliseconds where there is nobody to exchange with: more than the lookups of a
small step themselves. Parameters, optimizers and states are TorchRec's own in either case.
"""

from typing import Any

import torch
from torch.nn import functional
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbeddingBag, BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.types import ParameterSharding, ShardingEnv, ShardingType

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
        kind = _DirectCollection if alone and whole else ShardedEmbeddingBagCollection
        return kind(module, params, env, fused_params=self.fused_params, device=device, module_fqn=module_fqn)


class _DirectCollection(ShardedEmbeddingBagCollection):
    """A sharded collection all of whose tables are here, each in one piece."""

    def forward(self, features: KeyedJaggedTensor, *_: Any, **__: Any) -> KeyedTensor:
        """Pooled embeddings of each feature, (stride, sum of widths)."""
        pooled = [
            _pool(config, module, features)
            for lookup in self._lookups
            for config, module in zip(lookup.grouped_configs, lookup._emb_modules, strict=True)
        ]
        values = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
        return KeyedTensor(self._embedding_names, self._embedding_dims, values)


def _pool(
    config: GroupedEmbeddingConfig,
    module: BatchedDenseEmbeddingBag | BatchedFusedEmbeddingBag,
    features: KeyedJaggedTensor,
) -> torch.Tensor:
    """Sums of the rows that each bag names, of all tables of one kernel side by side."""
    names = config.feature_names()
    mine = (
        features if names == features.keys() else features.permute([features.keys().index(n) for n in names])
    )
    kernel = module.emb_module
    if isinstance(module, BatchedFusedEmbeddingBag) or mine.values().numel() != len(names) * mine.stride():
        return kernel(mine.values().long(), mine.offsets().long())
    if bool((mine.lengths() != 1).any()):
        return kernel(mine.values().long(), mine.offsets().long())
    shapes = [(table.local_rows, table.local_cols) for table in config.embedding_tables]
    tables = kernel.weights.split([rows * columns for rows, columns in shapes])
    return torch.cat(
        [
            functional.embedding(ids, weights.view(shape))
            for ids, weights, shape in zip(mine.values().view(len(names), -1), tables, shapes, strict=True)
        ],
        dim=1,
    )
