"""A plan with its costs, from towers and constraints: what `train` follows and what `plan` shows."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from torch import nn
from torchrec import EmbeddingBagConfig
from torchrec.distributed.planner.types import ShardingOption
from torchrec.modules.embedding_configs import DATA_TYPE_NUM_BITS

from trainer.distributed.quantized_comm import VALUE_BYTES
from trainer.facts.sharding_kinds import sharding_kind
from trainer.model.row_partitions import whole_table
from trainer.planning.capacity import CACHED, capacity, host_capacity, in_host, on_device
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import Cluster
from trainer.planning.kernel_support import compute_kernel, optimizer_bytes
from trainer.planning.plan import Plan, RankLoad, Shard, Table, rows_per_rank
from trainer.planning.torchrec_planner import embedding_configs, place
from trainer.planning.traffic import Lookups, Traffic, add_gathered, add_table


@dataclass(frozen=True)
class StepExchange:
    """How a step exchanges vectors, apart from the tables' kinds of sharding.

    Attributes:
        gathered_bytes: Bytes of the vectors that every rank needs in full; 0: none.
        candidate_bytes: Bytes of the candidates' vectors. If nothing else is gathered, these are where each
            rank looks up the candidates that it holds.
        communication: Type of exchanged pooled vectors and gradients.
        by_id: Tables with one row per user or item, by tower. If every rank holds one block of them, it looks
            up its own rows of the batch and no ids are exchanged.
    """

    gathered_bytes: float = 0
    candidate_bytes: float = 0
    communication: str = "float32"
    by_id: Mapping[str, Collection[str]] = field(default_factory=dict)


def make_plan(
    towers: nn.Module,
    constraints: Mapping[str, TableConstraint],
    *,
    optimizer: str,
    cluster: Cluster,
    exchange: StepExchange | None = None,
) -> Plan:
    """Plan every table, with the same result on any rank or laptop.

    Args:
        towers: Module with its tables on the meta device; a partitioned table is one table per partition.
        constraints: Constraint on each table, partitions joined.
        optimizer: Optimizer of the tables.
        cluster: Hardware and ranks.
        exchange: How a step exchanges vectors; None: float32, with nothing gathered.

    Raises:
        TooLargeError: The tables do not fit.
        ConfigError: The constraints cannot be met.
    """
    exchange = exchange or StepExchange()
    options = place(
        towers,
        _by_partition(towers, constraints),
        optimizer=optimizer,
        cluster=cluster,
        communication=exchange.communication,
    )
    tables = _tables(towers, options, constraints, optimizer, cluster.device)
    # Towers whose ranks look up their own rows of the batch.
    local = {
        tower: names
        for tower, names in exchange.by_id.items()
        if rows_per_rank(tables, tower, names, cluster.world_size)
    }
    local_tables = {name for names in local.values() for name in names}
    traffic = _traffic(tables, constraints, local_tables, cluster, VALUE_BYTES[exchange.communication])
    add_gathered(traffic, exchange.gathered_bytes or ("candidate" in local) * exchange.candidate_bytes)
    ranks = _loads(options, tables, traffic, local_tables, cluster)
    sizes = [load.bytes for load in ranks]
    busy = {shard.rank for table in tables for shard in table.shards if shard.rows}
    return Plan(
        world_size=cluster.world_size,
        local_world_size=cluster.local_world_size,
        hardware=cluster.hardware.name,
        tables=tables,
        ranks=ranks,
        imbalance=round(max(sizes) * len(sizes) / max(sum(sizes), 1), 3),
        estimated_step_ms=round(max(load.compute_ms + load.communication_ms for load in ranks), 4),
        idle_ranks=tuple(rank for rank in range(cluster.world_size) if rank not in busy),
    )


def _by_partition(
    towers: nn.Module, constraints: Mapping[str, TableConstraint]
) -> dict[str, TableConstraint]:
    """Return the constraints on TorchRec's tables: each partition has a share of the ids and one rank."""
    names = [config.name for _, config in embedding_configs(towers)]
    counts, seen = Counter(map(whole_table, names)), Counter[str]()
    found = {}
    for name in names:
        whole = whole_table(name)
        constraint = constraints[whole]
        if name != whole:
            ranks = constraint.ranks
            own = (ranks[seen[whole] % len(ranks)],) if ranks else ()
            constraint = replace(
                constraint, pooling_factor=constraint.pooling_factor / counts[whole], ranks=own
            )
        seen[whole] += 1
        found[name] = constraint
    return found


def _tables(
    towers: nn.Module,
    options: Sequence[ShardingOption],
    constraints: Mapping[str, TableConstraint],
    optimizer: str,
    device: str,
) -> tuple[Table, ...]:
    """Return all tables with their shards, partitions joined."""
    placed = {option.name: option for option in options}
    partitions = [(path, config, placed[config.name]) for path, config in embedding_configs(towers)]
    return tuple(
        _table(whole, list(group), constraints[whole], optimizer, device)
        for whole, group in groupby(partitions, key=lambda partition: whole_table(partition[1].name))
    )


def _table(
    name: str,
    partitions: Sequence[tuple[str, EmbeddingBagConfig, ShardingOption]],
    constraint: TableConstraint,
    optimizer: str,
    device: str,
) -> Table:
    path, config, option = partitions[0]
    kind = constraint.kind_of(option.sharding_type)
    kernel = compute_kernel(optimizer, kind, device)
    shards, first_row = [], 0
    for _, partition, placed in partitions:
        for shard in placed.shards:
            (row, column), (rows, columns) = shard.offset, shard.size
            state = optimizer_bytes(optimizer, kernel, rows, columns)
            weights = rows * columns * DATA_TYPE_NUM_BITS[config.data_type] // 8
            assert shard.rank is not None
            shards.append(Shard(shard.rank, first_row + row, column, rows, columns, weights, state))
        first_row += partition.num_embeddings
    return Table(
        name=name,
        tower=path.removeprefix("learned.").removesuffix(".embeddings"),
        rows=first_row,
        dim=config.embedding_dim,
        dtype=config.data_type.value.lower(),
        sharding=kind,
        kernel=CACHED if option.compute_kernel == CACHED else kernel,
        pooling_factor=round(constraint.pooling_factor, 3),
        lookups=round(constraint.bags * constraint.pooling_factor),
        shards=tuple(shards),
    )


def _traffic(
    tables: Sequence[Table],
    constraints: Mapping[str, TableConstraint],
    local_tables: Collection[str],
    cluster: Cluster,
    value_bytes: int,
) -> Traffic:
    """Return the traffic of all tables but those that ranks look up locally."""
    traffic = Traffic.none(cluster.world_size)
    for table in tables:
        if table.name in local_tables:
            continue
        constraint, shards = constraints[table.name], [(s.rank, s.rows, s.columns) for s in table.shards]
        bags, pooling_factor = constraint.bags / cluster.world_size, constraint.pooling_factor
        if sharding_kind(table.sharding).partitioned:
            # Every partition is asked for every bag, with its share of the bag's ids.
            pooling_factor /= len(shards)
        lookups = Lookups(bags, pooling_factor, value_bytes)
        add_table(traffic, table.sharding, shards, lookups, cluster.local_world_size)
    return traffic


def _loads(
    options: Sequence[ShardingOption],
    tables: Sequence[Table],
    traffic: Traffic,
    local_tables: Collection[str],
    cluster: Cluster,
) -> tuple[RankLoad, ...]:
    """Return what each rank holds and does; no rank asks another for `local_tables`."""
    hardware, world_size = cluster.hardware, cluster.world_size
    sizes, host_sizes, compute, communication = (np.zeros(world_size) for _ in range(4))
    for option in options:
        # TorchRec's estimate counts what a rank sends to itself.
        silent = world_size == 1 or whole_table(option.name) in local_tables
        for shard in option.shards:
            assert shard.rank is not None
            assert shard.storage is not None
            assert shard.perf is not None
            perf = shard.perf
            sizes[shard.rank] += on_device(shard.storage, cluster.device)
            host_sizes[shard.rank] += in_host(shard.storage, cluster.device)
            compute[shard.rank] += perf.fwd_compute + perf.bwd_compute + perf.prefetch_compute
            moving = perf.fwd_comms + perf.bwd_comms + perf.input_dist_comms
            communication[shard.rank] += 0 if silent else moving
    lookups = _lookups(tables, world_size)
    return tuple(
        RankLoad(
            rank=rank,
            bytes=int(sizes[rank]),
            capacity_bytes=capacity(hardware, cluster.local_world_size),
            lookups=round(lookups[rank]),
            bytes_sent=round(traffic.sent[rank]),
            bytes_received=round(traffic.received[rank]),
            compute_ms=round(float(compute[rank]), 4),
            communication_ms=round(float(communication[rank]), 4),
            host_bytes=int(host_sizes[rank]),
            host_capacity_bytes=host_capacity(hardware),
        )
        for rank in range(world_size)
    )


def _lookups(tables: Sequence[Table], world_size: int) -> np.ndarray:
    """Return the ids that each rank looks up: (world size,) float64."""
    lookups = np.zeros(world_size)
    for table in tables:
        copied = sharding_kind(table.sharding).cut == "copies"
        for shard in table.shards:
            lookups[shard.rank] += table.lookups * shard.rows / (table.rows * (world_size if copied else 1))
    return lookups
