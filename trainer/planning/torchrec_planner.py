"""TorchRec's planner, run without a process group: it decides which rank holds which shard."""

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
from torchrec.distributed.types import ModuleSharder
from torchrec.types import DataType

from trainer.distributed.quantized_comm import codecs
from trainer.errors import ConfigError
from trainer.facts.sharding_kinds import SHARDING_KINDS, sharding_kind
from trainer.planning.capacity import CACHED, capacity, host_capacity, too_large
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import GIGA, Cluster
from trainer.planning.kernel_support import compute_kernel, optimizer_bytes

KERNELS = ("fused", "dense", CACHED)
"""Of kernels with equal estimates, the planner's choice is the first one."""
MAX_PLACED_SHARDS = 500_000
"""Shards that the search for a better plan may place, over all its proposals."""


def place(
    towers: nn.Module,
    constraints: Mapping[str, TableConstraint],
    *,
    optimizer: str,
    cluster: Cluster,
    communication: str = "float32",
) -> list[ShardingOption]:
    """Place every table's shards on ranks; the result is the same on any machine.

    Args:
        towers: Module with its tables on the meta device.
        constraints: Constraint on each table that TorchRec knows.
        optimizer: Optimizer of the tables.
        cluster: Hardware and ranks.
        communication: Type of exchanged pooled vectors and gradients.

    Raises:
        TooLargeError: The tables do not fit.
        ConfigError: TorchRec does not have a kind of sharding.
    """
    sharder = EmbeddingBagCollectionSharder(qcomm_codecs_registry=codecs(communication))
    _check_torchrec_has(constraints, sharder, cluster.device)
    topology = _topology(cluster)
    parameter_constraints = _parameter_constraints(towers, constraints, cluster.world_size)
    estimators: list[ShardEstimator] = [
        _PerfEstimator(topology, parameter_constraints),
        _StorageEstimator(topology, parameter_constraints, constraints, optimizer),
    ]
    enumerator = _OrderedEnumerator(topology, 1, parameter_constraints, estimators)
    pinned = {name: constraint.ranks for name, constraint in constraints.items() if constraint.ranks}
    choice = any(len(constraint.kinds) > 1 or constraint.cached for constraint in constraints.values())
    found: list[ShardingOption] = []
    planner = EmbeddingShardingPlanner(
        topology=topology,
        enumerator=enumerator,
        storage_reservation=FixedPercentageStorageReservation(0),
        proposer=[_BoundedProposer(), *([UniformProposer()] if choice else [])],
        partitioner=_PinningPartitioner(pinned),
        constraints=parameter_constraints,
        stats=[],
        callbacks=[lambda best: found.extend(best) or best],
    )
    try:
        planner.plan(towers, [sharder])
    except PlannerError as error:
        raise too_large(enumerator.options, cluster) from error
    return found


def _check_torchrec_has(
    constraints: Mapping[str, TableConstraint], sharder: EmbeddingBagCollectionSharder, device: str
) -> None:
    known = sharder.sharding_types(device)
    for kind in {kind: None for constraint in constraints.values() for kind in constraint.kinds}:
        name = sharding_kind(kind).torchrec_name
        if name not in known:
            raise ConfigError(
                f"--sharding.kind {kind}: TorchRec has no sharding type {name} on {device}. "
                f"Use one of {', '.join(other for other in SHARDING_KINDS if other != kind)}"
            )


def _topology(cluster: Cluster) -> Topology:
    hardware, on_cpu, per_ms = cluster.hardware, cluster.device == "cpu", GIGA / 1000
    own = capacity(hardware, cluster.local_world_size)
    return Topology(
        world_size=cluster.world_size,
        local_world_size=cluster.local_world_size,
        compute_device=cluster.device,
        hbm_cap=None if on_cpu else own,
        ddr_cap=own if on_cpu else host_capacity(hardware),
        hbm_mem_bw=hardware.memory_speed * per_ms,
        ddr_mem_bw=hardware.memory_speed * per_ms / (cluster.local_world_size if on_cpu else 1),
        hbm_to_ddr_mem_bw=hardware.link_speed * per_ms,
        intra_host_bw=hardware.intra_speed * per_ms,
        inter_host_bw=hardware.inter_speed * per_ms,
    )


def _parameter_constraints(
    towers: nn.Module, constraints: Mapping[str, TableConstraint], world_size: int
) -> dict[str, ParameterConstraints]:
    """Return the constraints in TorchRec's terms."""
    found = {}
    for _, config in embedding_configs(towers):
        constraint = constraints[config.name]
        # A shard's columns are a multiple of 4. TorchRec's own minimum of 128 would leave most tables whole.
        columns = 4 * -(-config.embedding_dim // (4 * world_size))
        found[config.name] = ParameterConstraints(
            sharding_types=[sharding_kind(kind).torchrec_name for kind in constraint.kinds],
            compute_kernels=["fused", "dense", *([CACHED] if constraint.cached else [])],
            min_partition=columns,
            # An empty bag costs as much as one with an id.
            pooling_factors=[max(constraint.pooling_factor, 1.0)],
            batch_sizes=[max(1, -(-int(constraint.bags) // world_size))],
            output_dtype=DataType.FP32,
        )
    return found


def embedding_configs(towers: nn.Module) -> list[tuple[str, EmbeddingBagConfig]]:
    """Return every table's configuration with the path of its collection, partitions in order."""
    return [
        (path, config)
        for path, module in towers.named_modules()
        if isinstance(module, EmbeddingBagCollection)
        for config in module.embedding_bag_configs()
    ]


class _OrderedEnumerator(EmbeddingEnumerator):
    """TorchRec's options of each table in a fixed order, by which the planner breaks ties.

    TorchRec intersects sets of names, whose order changes with Python's hash seed.
    """

    def enumerate(self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]) -> list[ShardingOption]:
        """Return the options of all tables, those of a table in the order of `SHARDING_KINDS`."""
        options = super().enumerate(module, sharders)
        kinds = list(dict.fromkeys(kind.torchrec_name for kind in SHARDING_KINDS.values()))
        tables = {name: number for number, name in enumerate(dict.fromkeys(each.fqn for each in options))}
        options.sort(
            key=lambda option: (
                tables[option.fqn],
                kinds.index(option.sharding_type),
                KERNELS.index(option.compute_kernel),
            )
        )
        self.options = options
        return options


class _BoundedProposer(GreedyProposer):
    """TorchRec's greedy search, limited by a count instead of a clock: machines differ in speed."""

    def __init__(self) -> None:
        super().__init__()
        self._placed = 0

    def feedback(
        self,
        partitionable: bool,
        plan: list[ShardingOption] | None = None,
        perf_rating: float | None = None,
        storage_constraint: Topology | None = None,
    ) -> None:
        """Count the shards of a proposal, and prepare the next one."""
        super().feedback(partitionable, plan, perf_rating, storage_constraint)
        self._placed += sum(len(option.shards) for option in plan or ())

    def propose(self) -> list[ShardingOption] | None:
        """Return the next proposal; None: the search is over."""
        return super().propose() if self._placed < MAX_PLACED_SHARDS else None


class _PerfEstimator(EmbeddingPerfEstimator):
    """TorchRec's estimate, made once for all shards of one size, of which there may be thousands."""

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap) -> None:
        for option in sharding_options:
            shards = option.shards
            by_size = {tuple(shard.size): shard for shard in shards}
            option.shards = list(by_size.values())
            super().estimate([option], sharder_data_map)
            option.shards = shards
            for shard in shards:
                shard.perf = by_size[tuple(shard.size)].perf


class _StorageEstimator(EmbeddingStorageEstimator):
    """TorchRec's estimate plus the optimizer state and gradients that it leaves out."""

    def __init__(
        self,
        topology: Topology,
        parameter_constraints: dict[str, ParameterConstraints],
        constraints: Mapping[str, TableConstraint],
        optimizer: str,
    ) -> None:
        super().__init__(topology, parameter_constraints)
        self._constraints_by_table, self._optimizer = constraints, optimizer
        self._device = topology.compute_device

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap) -> None:
        super().estimate(sharding_options, sharder_data_map)
        for option in sharding_options:
            in_ddr = self._device == "cpu" or option.compute_kernel == CACHED
            kind = self._constraints_by_table[option.name].kind_of(option.sharding_type)
            kernel = compute_kernel(self._optimizer, kind, self._device)
            by_size: dict[tuple[int, ...], Storage] = {}
            for shard in option.shards:
                size = tuple(shard.size)
                if size not in by_size:
                    state = optimizer_bytes(self._optimizer, kernel, *size)
                    added = Storage(hbm=0, ddr=state) if in_ddr else Storage(hbm=state, ddr=0)
                    assert shard.storage is not None
                    by_size[size] = shard.storage + added
                shard.storage = by_size[size]


class _PinningPartitioner(GreedyPerfPartitioner):
    """Places pinned tables first, and then leaves the others and the remaining memory to TorchRec."""

    def __init__(self, ranks: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self._ranks = ranks

    def partition(
        self, proposal: list[ShardingOption], storage_constraint: Topology, hbm_per_device: int | None = None
    ) -> list[ShardingOption]:
        remaining = copy.deepcopy(storage_constraint) if self._ranks else storage_constraint
        for option in proposal:
            ranks = self._ranks.get(option.name, ())
            for number, shard in enumerate(option.shards if ranks else ()):
                shard.rank = ranks[number % len(ranks)]
                device = remaining.devices[shard.rank]
                assert shard.storage is not None
                assert shard.perf is not None
                if not shard.storage.fits_in(device.storage):
                    raise PlannerError(f"{option.name} does not fit on rank {shard.rank}")
                device.storage -= shard.storage
                device.perf += shard.perf
        super().partition([option for option in proposal if option.name not in self._ranks], remaining)
        return proposal
