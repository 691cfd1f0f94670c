"""Plans and shardings of small towers, as a training makes them."""

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from trainer.model.row_partitions import whole_table
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import Cluster, Hardware, named_hardware
from trainer.planning.plan import Plan
from trainer.planning.planner import make_plan
from trainer.planning.torchrec_planner import embedding_configs
from trainer.sharding.shard import shard
from trainer.sharding.torchrec_plan import sharding_plan


def planned(
    towers: nn.Module,
    sharding: str = "table_wise",
    world_size: int = 1,
    optimizer: str = "rowwise_adagrad",
    hardware: Hardware | str = "cpu",
) -> Plan:
    """Plan of towers whose every table is sharded alike and looked up 32 times in a step."""
    names = [config.name for _, config in embedding_configs(towers)]
    kinds = {
        whole_table(name): "row_partitioned" if name != whole_table(name) else sharding for name in names
    }
    constraints = {table: TableConstraint((kind,), bags=32) for table, kind in kinds.items()}
    device = named_hardware(hardware) if isinstance(hardware, str) else hardware
    return make_plan(
        towers, constraints, optimizer=optimizer, cluster=Cluster(device, world_size, world_size)
    )


def sharded(
    towers: nn.Module,
    sharding: str,
    optimizer: str,
    rates: dict[str, float],
    dense_learning_rate: float = 0.01,
    weight_decay: float = 0.0,
    world_size: int = 1,
    betas: Sequence[float] = (0.9, 0.999),
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Towers laid out as planned in the world that this process is in, and their optimizer."""
    plan = sharding_plan(planned(towers, sharding, world_size, optimizer), towers, "cpu", world_size)
    return shard(
        towers,
        plan,
        device=torch.device("cpu"),
        optimizer=optimizer,
        learning_rates=rates,
        dense_learning_rate=dense_learning_rate,
        weight_decay=weight_decay,
        betas=betas,
    )
