"""Which rank holds which part of which table, decided by TorchRec's planner without a process group."""

import os
from typing import Any

import psutil
import torch
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ShardingPlan

from trainer.errors import ConfigError
from trainer.model.towers import Tower

FUSED_ON_CPU = ("rowwise_adagrad", "adagrad", "sgd")
CPU_SHARDINGS = ("table_wise", "column_wise", "data_parallel")


def compute_kernel(optimizer: str, sharding: str, device: str) -> str:
    """Kernel that runs an optimizer under a sharding on a device: `fused` in the backward pass, or `dense`.

    Raises: ConfigError for a combination that does not exist, naming those that do.
    """
    if device == "cpu" and sharding not in CPU_SHARDINGS:
        raise ConfigError(
            f"--sharding.kind {sharding}: not on CPU, where TorchRec has {', '.join(CPU_SHARDINGS)}. "
            "Use one of these, or --device cuda"
        )
    if sharding == "data_parallel":
        return "dense"
    if optimizer == "adam" and device == "cpu":
        if sharding != "table_wise":
            raise ConfigError(
                f"--optimizer.name adam: not with --sharding.kind {sharding} on CPU, where FBGEMM has "
                "no fused Adam. Use --sharding.kind table_wise or data_parallel, --device cuda, "
                f"or one of {', '.join(FUSED_ON_CPU)}"
            )
        return "dense"
    return "fused"


def make_plan(
    towers: nn.Module,
    sharding: str,
    kernel: str,
    world_size: int,
    local_world_size: int,
    device: str,
    batch_rows: int,
) -> ShardingPlan:
    """Plan of every table, the same on whichever rank or laptop it is made.

    Args:
        towers: module with its tables on the meta device.
        sharding: kind for every table.
        kernel: `fused` or `dense`, see `compute_kernel`.
        world_size, local_world_size: ranks in all and on each host.
        device: `cpu` or `cuda`.
        batch_rows: rows of one step on one rank.
    Raises: ConfigError if the tables do not fit.
    """
    tables = [config for tower in _towers(towers) for config in tower.embeddings.embedding_bag_configs()]
    planned = "dense" if sharding == "data_parallel" else "fused"
    constraints = {
        table.name: ParameterConstraints(
            sharding_types=[sharding],
            compute_kernels=[planned],
            # TorchRec's own lower bound of 128 columns a shard would leave most tables in one piece.
            min_partition=-(-table.embedding_dim // world_size),
        )
        for table in tables
    }
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=world_size,
            local_world_size=local_world_size,
            compute_device=device,
            ddr_cap=_host_memory() // local_world_size,
            hbm_cap=_device_memory() if device == "cuda" else None,
        ),
        batch_size=max(batch_rows, 1),
        constraints=constraints,
    )
    try:
        plan = planner.plan(towers, [EmbeddingBagCollectionSharder()])
    except PlannerError as error:
        raise ConfigError(
            f"--sharding.kind {sharding}: the tables do not fit on {world_size} ranks "
            f"({' '.join(str(error).split())[:200]}). Use more ranks, a smaller --model.dim or a host with "
            "more memory"
        ) from error
    # TorchRec runs the dense kernel under table-wise sharding, but its planner refuses to plan it.
    for module in plan.plan.values():
        for parameter in module.values():  # type: ignore[attr-defined]
            parameter.compute_kernel = kernel
    return plan


def describe_plan(plan: ShardingPlan, towers: nn.Module, world_size: int) -> dict[str, Any]:
    """The plan as plain data: `world_size`, `tables` with their shards, and `idle_ranks`, which hold none."""
    tables = []
    for path, tower in towers.named_modules():
        if not isinstance(tower, Tower):
            continue
        sharded = plan.plan[f"{path}.embeddings"]
        for config in tower.embeddings.embedding_bag_configs():
            tables.append(_describe_table(config, sharded[config.name], world_size))  # type: ignore[index]
    busy = {shard["rank"] for table in tables for shard in table["shards"]}
    return {
        "world_size": world_size,
        "tables": tables,
        "idle_ranks": [rank for rank in range(world_size) if rank not in busy],
    }


def _describe_table(config: Any, parameter: Any, world_size: int) -> dict[str, Any]:
    rows, dim = config.num_embeddings, config.embedding_dim
    if parameter.sharding_spec is None:
        placed = [(rank, (0, 0), (rows, dim)) for rank in range(world_size)]
    else:
        placed = [
            (shard.placement.rank(), shard.shard_offsets, shard.shard_sizes)
            for shard in parameter.sharding_spec.shards
        ]
    return {
        "name": config.name,
        "rows": rows,
        "dim": dim,
        "sharding": parameter.sharding_type,
        "kernel": parameter.compute_kernel,
        "shards": [
            {
                "rank": rank,
                "row_offset": offsets[0],
                "column_offset": offsets[1],
                "rows": sizes[0],
                "columns": sizes[1],
                "weight_bytes": sizes[0] * sizes[1] * 4,
            }
            for rank, offsets, sizes in placed
        ],
    }


def _towers(module: nn.Module) -> list[Tower]:
    return [part for part in module.modules() if isinstance(part, Tower)]


def _host_memory() -> int:
    return int(psutil.virtual_memory().total)


def _device_memory() -> int:
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return int(torch.cuda.get_device_properties(local_rank).total_memory)
