"""Converts a plan into TorchRec's form."""

from collections.abc import Sequence

from torch import nn
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan

from trainer.facts.sharding_kinds import sharding_kind
from trainer.model.row_partitions import partition_number, whole_table
from trainer.planning.plan import Plan, Shard, Table
from trainer.planning.torchrec_planner import embedding_configs
from trainer.sharding.private_api import EnumerableShardingSpec, ShardMetadata


def sharding_plan(plan: Plan, towers: nn.Module, device: str, local_world_size: int) -> ShardingPlan:
    """Convert a plan into TorchRec's form.

    Args:
        plan: Plan of the towers' tables, see `trainer.planning.plan_check`.
        towers: Module with these tables.
        device: `cpu` or `cuda`.
        local_world_size: Number of ranks per host here, by which devices are numbered; the plan may have been
            made for other hosts.
    """
    tables = {table.name: table for table in plan.tables}
    modules: dict[str, EmbeddingModuleShardingPlan] = {}
    for path, config in embedding_configs(towers):
        table = tables[whole_table(config.name)]
        shards = _shards_of(table, config.name, config.num_embeddings)
        modules.setdefault(path, EmbeddingModuleShardingPlan())[config.name] = ParameterSharding(
            sharding_type=sharding_kind(table.sharding).torchrec_name,
            compute_kernel=table.kernel,
            ranks=[shard.rank for shard in shards],
            sharding_spec=_spec(table, shards, device, local_world_size),
            # Random rounding on a GPU would make results depend on the plan; CPUs round to the nearest.
            stochastic_rounding=False,
        )
    return ShardingPlan(dict(modules))


def _shards_of(table: Table, name: str, rows: int) -> Sequence[Shard]:
    """Return the shards of a TorchRec table: all of the table, or the one of a partition, from row 0."""
    if not sharding_kind(table.sharding).partitioned:
        return table.shards
    own = table.shards[partition_number(name)]
    assert own.rows == rows, "the plan was checked against the model"
    return [Shard(own.rank, 0, 0, own.rows, own.columns, own.weight_bytes, own.optimizer_bytes)]


def _spec(
    table: Table, shards: Sequence[Shard], device: str, local_world_size: int
) -> EnumerableShardingSpec | None:
    """Return the shards in TorchRec's form; None for copies, which would overlap."""
    if sharding_kind(table.sharding).cut == "copies":
        return None
    return EnumerableShardingSpec(
        [
            ShardMetadata(
                shard_offsets=[shard.row_offset, shard.column_offset],
                shard_sizes=[shard.rows, shard.columns],
                placement=placement(device, shard.rank, local_world_size),
            )
            for shard in shards
        ]
    )
