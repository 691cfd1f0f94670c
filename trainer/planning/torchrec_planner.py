"""Which rank holds which part of which table, decided by TorchRec's planner without a process group."""

import copy
from collections.abc import Mapping, Sequence

from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.estimator.estimator import EmbeddingPerfEstimator
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner
from torchrec.distributed.planner.proposers import GreedyProposer, UniformProposer
from torchrec.distributed.planner.shard_estimators import EmbeddingStorageEstimator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    PlannerError,
    SharderDataMap,
    ShardEstimator,
    ShardingOption,
    Storage,
)
from torchrec.types import DataType

from trainer.distributed.quantized_comm import codecs
from trainer.planning.capacity import CACHED, capacity, host_capacity, too_large
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import GIGA, Hardware
from trainer.planning.kernel_support import compute_kernel, optimizer_bytes

PLANNING_SECONDS = 20
"""How long the planner may look for something better, where there is a choice."""


def place(
    towers: nn.Module,
    wishes: Mapping[str, TableConstraint],
    optimizer: str,
    hardware: Hardware,
    world_size: int,
    local_world_size: int,
    communication: str = "float32",
) -> list[ShardingOption]:
    """Every table with its shards on ranks, as the planner has it, the same wherever it is asked.

    Args:
        towers: module with its tables on the meta device.
        wishes: by table.
        optimizer: of the tables.
        communication: type of exchanged values.
    Raises: TooLargeError; ConfigError for wishes that cannot be.
    """
    topology = _topology(hardware, world_size, local_world_size)
    constraints = _constraints(towers, wishes, world_size)
    estimators: list[ShardEstimator] = [
        _Perf(topology, constraints),
        _Storage(topology, constraints, optimizer),
    ]
    enumerator = EmbeddingEnumerator(topology, 1, constraints, estimators)
    choice = any(len(wish.shardings) > 1 or wish.cached for wish in wishes.values())
    found: list[ShardingOption] = []
    planner = EmbeddingShardingPlanner(
        topology=topology,
        enumerator=enumerator,
        storage_reservation=FixedPercentageStorageReservation(0),
        proposer=[GreedyProposer(), *([UniformProposer()] if choice else [])],
        partitioner=_Pinned({table: wish.ranks for table, wish in wishes.items() if wish.ranks}),
        constraints=constraints,
        stats=[],
        callbacks=[lambda best: found.extend(best) or best],
        timeout_seconds=PLANNING_SECONDS,
    )
    try:
        planner.plan(towers, [EmbeddingBagCollectionSharder(qcomm_codecs_registry=codecs(communication))])
    except PlannerError as error:
        options = enumerator.last_stored_search_space or []
        raise too_large(options, hardware, world_size, local_world_size) from error
    return found


def _topology(hardware: Hardware, world_size: int, local_world_size: int) -> Topology:
    on_cpu, per_ms = hardware.device == "cpu", GIGA / 1000
    own = capacity(hardware, local_world_size)
    return Topology(
        world_size=world_size,
        local_world_size=local_world_size,
        compute_device=hardware.device,
        hbm_cap=None if on_cpu else own,
        ddr_cap=own if on_cpu else host_capacity(hardware),
        hbm_mem_bw=hardware.memory_speed * per_ms,
        ddr_mem_bw=hardware.memory_speed * per_ms / (local_world_size if on_cpu else 1),
        hbm_to_ddr_mem_bw=hardware.link_speed * per_ms,
        intra_host_bw=hardware.intra_speed * per_ms,
        inter_host_bw=hardware.inter_speed * per_ms,
    )


def _constraints(
    towers: nn.Module, wishes: Mapping[str, TableConstraint], world_size: int
) -> dict[str, ParameterConstraints]:
    constraints = {}
    for _, config in embedding_configs(towers):
        wish = wishes[config.name]
        # A shard's columns are a multiple of 4; TorchRec's own bound of 128 would leave most tables whole.
        columns = 4 * -(-config.embedding_dim // (4 * world_size))
        constraints[config.name] = ParameterConstraints(
            sharding_types=list(wish.shardings),
            compute_kernels=["fused", "dense", *([CACHED] if wish.cached else [])],
            min_partition=columns,
            # A bag without an id costs what one with an id does.
            pooling_factors=[max(wish.pooling_factor, 1.0)],
            batch_sizes=[max(1, -(-int(wish.bags) // world_size))],
            output_dtype=DataType.FP32,
        )
    return constraints


def embedding_configs(towers: nn.Module) -> list[tuple[str, EmbeddingBagConfig]]:
    """Every table's configuration with the path of its collection, partitions of a table in order."""
    return [
        (path, config)
        for path, module in towers.named_modules()
        if isinstance(module, EmbeddingBagCollection)
        for config in module.embedding_bag_configs()
    ]


class _Perf(EmbeddingPerfEstimator):
    """TorchRec's estimate, asked once for all shards of one size: a thousand ranks have a thousand alike."""

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap) -> None:
        for option in sharding_options:
            every = option.shards
            different = {tuple(shard.size): shard for shard in every}
            option.shards = list(different.values())
            super().estimate([option], sharder_data_map)
            option.shards = every
            for shard in every:
                shard.perf = different[tuple(shard.size)].perf


class _Storage(EmbeddingStorageEstimator):
    """TorchRec's estimate, and what our optimizers keep beside the weights."""

    def __init__(
        self, topology: Topology, constraints: dict[str, ParameterConstraints], optimizer: str
    ) -> None:
        super().__init__(topology, constraints)
        self._optimizer, self._device = optimizer, topology.compute_device

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap) -> None:
        super().estimate(sharding_options, sharder_data_map)
        for option in sharding_options:
            ddr = self._device == "cpu" or option.compute_kernel == CACHED
            kernel = compute_kernel(self._optimizer, option.sharding_type, self._device)
            sizes: dict[tuple[int, ...], Storage] = {}
            for shard in option.shards:
                size = tuple(shard.size)
                if size not in sizes:
                    beside = optimizer_bytes(self._optimizer, kernel, *size)
                    added = Storage(hbm=0, ddr=beside) if ddr else Storage(hbm=beside, ddr=0)
                    assert shard.storage is not None
                    sizes[size] = shard.storage + added
                shard.storage = sizes[size]


class _Pinned(GreedyPerfPartitioner):
    """Tables with ranks of their own first, then TorchRec's placement of the others in what is left."""

    def __init__(self, ranks: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self._ranks = ranks

    def partition(
        self, proposal: list[ShardingOption], storage_constraint: Topology, hbm_per_device: int | None = None
    ) -> list[ShardingOption]:
        left = copy.deepcopy(storage_constraint) if self._ranks else storage_constraint
        for option in proposal:
            ranks = self._ranks.get(option.name, ())
            for number, shard in enumerate(option.shards if ranks else ()):
                shard.rank = ranks[number % len(ranks)]
                device = left.devices[shard.rank]
                assert shard.storage is not None
                assert shard.perf is not None
                if not shard.storage.fits_in(device.storage):
                    raise PlannerError(f"{option.name} does not fit on rank {shard.rank}")
                device.storage -= shard.storage
                device.perf += shard.perf
        super().partition([option for option in proposal if option.name not in self._ranks], left)
        return proposal
