"""From towers and wishes to a plan with its costs: what `train` lays out and what `plan` shows."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from torch import nn
from torchrec import EmbeddingBagConfig
from torchrec.distributed.planner.types import ShardingOption
from torchrec.modules.embedding_configs import DATA_TYPE_NUM_BITS

from trainer.distributed.quantized_comm import VALUE_BYTES
from trainer.model.row_partitions import whole_table
from trainer.planning.capacity import CACHED, capacity, host_capacity, in_host, on_device
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import Hardware
from trainer.planning.kernel_support import compute_kernel, optimizer_bytes
from trainer.planning.plan import PARTITIONED, Plan, RankLoad, Shard, Table, block_of_each_rank
from trainer.planning.torchrec_planner import embedding_configs, place
from trainer.planning.traffic import Traffic, add_gathered, add_table

NOTHING: Mapping[str, Collection[str]] = {}


def make_plan(
    towers: nn.Module,
    wishes: Mapping[str, TableConstraint],
    optimizer: str,
    hardware: Hardware,
    world_size: int,
    local_world_size: int,
    gathered_bytes: float = 0,
    candidate_bytes: float = 0,
    communication: str = "float32",
    by_id: Mapping[str, Collection[str]] = NOTHING,
) -> Plan:
    """Plan of every table, the same on whichever rank or laptop it is made.

    Args:
        towers: module with its tables on the meta device; those cut into partitions have one table for each.
        wishes: by table, or by its whole where it is cut.
        optimizer: of the tables.
        world_size, local_world_size: ranks in all and on each host.
        gathered_bytes: of a step's vectors that every rank needs of all; 0: of none.
        candidate_bytes: of the vectors of a step's candidates, which are gathered then where each rank looks
            up those that it has.
        communication: type of the pooled vectors and gradients that ranks exchange.
        by_id: tables with a row for each user, or item, of the towers whose ranks take the batches' rows that
            they have, if each has a block of them.
    Raises: TooLargeError if the tables do not fit; ConfigError for wishes that cannot be.
    """
    options = place(
        towers, _by_part(towers, wishes), optimizer, hardware, world_size, local_world_size, communication
    )
    placed = {option.name: option for option in options}
    parts = [(path, config, placed[config.name]) for path, config in embedding_configs(towers)]
    tables = tuple(
        _table(whole, list(group), wishes[whole], optimizer, hardware)
        for whole, group in groupby(parts, key=lambda part: whole_table(part[1].name))
    )
    in_place = {
        tower: ids for tower, ids in by_id.items() if block_of_each_rank(tables, tower, ids, world_size)
    }
    asked_here = {name for ids in in_place.values() for name in ids}
    traffic = _traffic(options, wishes, asked_here, world_size, local_world_size, VALUE_BYTES[communication])
    add_gathered(traffic, gathered_bytes or ("candidate" in in_place) * candidate_bytes)
    ranks = _loads(options, tables, hardware, world_size, local_world_size, traffic, asked_here)
    sizes = [load.bytes for load in ranks]
    busy = {shard.rank for table in tables for shard in table.shards if shard.rows}
    return Plan(
        world_size=world_size,
        local_world_size=local_world_size,
        hardware=hardware.name,
        tables=tables,
        ranks=ranks,
        imbalance=round(max(sizes) * len(sizes) / max(sum(sizes), 1), 3),
        estimated_step_ms=round(max(load.compute_ms + load.communication_ms for load in ranks), 4),
        idle_ranks=tuple(rank for rank in range(world_size) if rank not in busy),
    )


def _by_part(towers: nn.Module, wishes: Mapping[str, TableConstraint]) -> dict[str, TableConstraint]:
    """The wishes of each table that TorchRec knows: a partition has its share of ids, and its own rank."""
    names = [config.name for _, config in embedding_configs(towers)]
    parts, seen = Counter(map(whole_table, names)), Counter[str]()
    found = {}
    for name in names:
        whole = whole_table(name)
        wish = wishes[whole]
        if name != whole:
            own = (wish.ranks[seen[whole] % len(wish.ranks)],) if wish.ranks else ()
            factor = wish.pooling_factor / parts[whole]
            wish = replace(wish, shardings=("table_wise",), pooling_factor=factor, ranks=own)
        seen[whole] += 1
        found[name] = wish
    return found


def _table(
    whole: str,
    parts: Sequence[tuple[str, EmbeddingBagConfig, ShardingOption]],
    wish: TableConstraint,
    optimizer: str,
    hardware: Hardware,
) -> Table:
    path, config, option = parts[0]
    kernel = compute_kernel(optimizer, option.sharding_type, hardware.device)
    shards, first_row = [], 0
    for _, part, placed in parts:
        for shard in placed.shards:
            (row, column), (rows, columns) = shard.offset, shard.size
            beside = optimizer_bytes(optimizer, kernel, rows, columns)
            weights = rows * columns * DATA_TYPE_NUM_BITS[config.data_type] // 8
            assert shard.rank is not None
            shards.append(Shard(shard.rank, first_row + row, column, rows, columns, weights, beside))
        first_row += part.num_embeddings
    return Table(
        name=whole,
        tower=path.removeprefix("learned.").removesuffix(".embeddings"),
        rows=first_row,
        dim=config.embedding_dim,
        dtype=config.data_type.value.lower(),
        sharding=option.sharding_type if whole == config.name else PARTITIONED,
        kernel=CACHED if option.compute_kernel == CACHED else kernel,
        pooling_factor=round(wish.pooling_factor, 3),
        lookups=round(wish.bags * wish.pooling_factor),
        shards=tuple(shards),
    )


def _loads(
    options: Sequence[ShardingOption],
    tables: Sequence[Table],
    hardware: Hardware,
    world_size: int,
    local_world_size: int,
    traffic: Traffic,
    asked_here: Collection[str],
) -> tuple[RankLoad, ...]:
    """What each rank holds and does.

    Args: asked_here: tables of which no rank asks another.
    """
    sizes, behind, lookups, compute, communication = (np.zeros(world_size) for _ in range(5))
    for option in options:
        for shard in option.shards:
            assert shard.rank is not None
            assert shard.storage is not None
            assert shard.perf is not None
            perf = shard.perf
            sizes[shard.rank] += on_device(shard.storage, hardware.device)
            behind[shard.rank] += in_host(shard.storage, hardware.device)
            compute[shard.rank] += perf.fwd_compute + perf.bwd_compute + perf.prefetch_compute
            moving = perf.fwd_comms + perf.bwd_comms + perf.input_dist_comms
            # The estimator has a rank send to itself.
            alone = world_size == 1 or whole_table(option.name) in asked_here
            communication[shard.rank] += 0 if alone else moving
    for table in tables:
        for piece in table.shards:
            shared = table.sharding == "data_parallel"
            lookups[piece.rank] += table.lookups * piece.rows / (table.rows * (world_size if shared else 1))
    return tuple(
        RankLoad(
            rank=rank,
            bytes=int(sizes[rank]),
            capacity_bytes=capacity(hardware, local_world_size),
            lookups=round(lookups[rank]),
            bytes_sent=round(traffic.sent[rank]),
            bytes_received=round(traffic.received[rank]),
            compute_ms=round(float(compute[rank]), 4),
            communication_ms=round(float(communication[rank]), 4),
            host_bytes=int(behind[rank]),
            host_capacity_bytes=host_capacity(hardware),
        )
        for rank in range(world_size)
    )


def _traffic(
    options: Sequence[ShardingOption],
    wishes: Mapping[str, TableConstraint],
    asked_here: Collection[str],
    world_size: int,
    local_world_size: int,
    value_bytes: int,
) -> Traffic:
    traffic = Traffic.none(world_size)
    parts = Counter(whole_table(option.name) for option in options)
    for option in options:
        whole = whole_table(option.name)
        if whole in asked_here:
            continue
        shards = [(int(shard.rank or 0), shard.size[0], shard.size[1]) for shard in option.shards]
        bags, factor = wishes[whole].bags / world_size, wishes[whole].pooling_factor / parts[whole]
        add_table(traffic, option.sharding_type, shards, bags, factor, local_world_size, value_bytes)
    return traffic
