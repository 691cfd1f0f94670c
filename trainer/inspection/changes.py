"""Changes of a scenario, each planned anew, and the search for the smallest world size that they fit."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from trainer.config.parser import check
from trainer.config.resolved import ResolvedConfig
from trainer.errors import ConfigError
from trainer.facts.sharding_kinds import SHARDING_KINDS, ShardingKind, sharding_kind
from trainer.inspection.scenario import Scenario, default_local_world_size, without_gaps
from trainer.planning.capacity import TooLargeError
from trainer.planning.hardware import Cluster
from trainer.planning.layout import lay_out, table_values
from trainer.planning.plan import Plan

MAX_RANKS, MAX_PARTITIONS, MAX_SHARDS = 4096, 2048, 50_000
"""Ranks, partitions, and shards of other kinds with one per rank, beyond which no change is tried."""

Edits: TypeAlias = Mapping[str, Any]
"""Changes of the configuration by dotted key, as on the command line."""
EditsAt: TypeAlias = Callable[[int], Edits | None]
"""Edits for a world size; None: there are none."""


@dataclass(frozen=True)
class Change:
    """A change of a scenario, and its plan.

    Attributes:
        options: Options to add to the command.
        plan: The plan that they give.
        note: What else they change in the model; empty: nothing.
    """

    options: str
    plan: Plan
    note: str = ""


def plan_of(scenario: Scenario) -> Plan:
    """Return the plan of a scenario.

    Raises:
        TooLargeError: The tables do not fit.
        ConfigError: The tables cannot be sharded as asked.
    """
    return lay_out(scenario.config, scenario.workload, scenario.cluster)


def try_change(scenario: Scenario, edits: Edits, world_size: int | None = None) -> Change | None:
    """Return the change that some edits make; None if they cannot be combined or do not fit.

    Args:
        scenario: What is changed.
        edits: Changes of the configuration. The optimizer stays, unless they name another.
        world_size: Another number of ranks; None: the same.
    """
    try:
        return make_change(scenario, edits, world_size)
    except ConfigError:
        return None


def make_change(scenario: Scenario, edits: Edits, world_size: int | None = None) -> Change:
    """Return the change that some edits make, as `try_change` does.

    Raises:
        TooLargeError: The tables do not fit.
        ConfigError: The edits cannot be combined, or take too long to plan.
    """
    size = world_size or scenario.cluster.world_size
    if _is_slow(scenario, edits, size):
        raise ConfigError("too many shards to try")
    optimizer = scenario.config.optimizer.name
    asked = _edited(scenario.asked, edits)
    config = without_gaps(asked, scenario.data_size)
    if "optimizer.name" not in edits and config.optimizer.name != optimizer:
        # The default optimizer depends on the width, among other things; a change must not alter it as well.
        edits = {**edits, "optimizer.name": optimizer}
        asked = _edited(scenario.asked, edits)
        config = without_gaps(asked, scenario.data_size)
    check(config)
    cluster, host_options = _resized(scenario, size)
    plan = plan_of(replace(scenario, asked=asked, config=config, cluster=cluster))
    options = [*(f"--{key} {_as_option(value)}" for key, value in edits.items()), *host_options]
    return Change(" ".join(options), plan, _note(scenario.config, config, plan))


def smallest_world(scenario: Scenario, edits_at: EditsAt) -> Change | None:
    """Return the change at the smallest world size that holds the tables, from the scenario's own on."""
    size, uncut_before, least = scenario.cluster.world_size, None, scenario.cluster.world_size
    while size <= MAX_RANKS:
        edits = edits_at(size)
        if edits is None:
            return None
        try:
            return _bisected(scenario, edits_at, least, make_change(scenario, edits, size))
        except TooLargeError as error:
            uncut = error.largest if error.largest[1] > error.available else None
            if uncut and uncut == uncut_before:  # more ranks do not make this shard smaller
                return None
            uncut_before = uncut
            # Below that even perfectly balanced ranks are too small.
            least = max(size + 1, -(-error.total // error.available))
            size *= 2 ** max(1, math.ceil(math.log2(error.total / (size * error.available))))
        except ConfigError:
            return None
    return None


def all_tables(scenario: Scenario, kind: str) -> dict[str, Any]:
    """Return the edits that shard every table in one way, whatever the user asked for."""
    sharding = scenario.asked.sharding
    given = {"tables": sharding.tables, "partitions": sharding.partitions, "ranks": sharding.ranks}
    reset: dict[str, Any] = {f"sharding.{name}": {} for name, value in given.items() if value}
    return reset | ({"sharding.plan": None} if sharding.plan else {}) | {"sharding.kind": kind}


def _bisected(scenario: Scenario, edits_at: EditsAt, least: int, found: Change) -> Change:
    """Return the change at the smallest world size from `least` on, or else the one that was found."""
    sizes = [size for size in _world_sizes(scenario, found.plan.world_size) if size >= least]
    low, high, stride = 0, len(sizes), 1
    while low < high:
        # The least is often enough, and fewer ranks are planned sooner: strides grow from there.
        middle = min(low + stride - 1, (low + high) // 2)
        edits = edits_at(sizes[middle])
        change = try_change(scenario, edits, sizes[middle]) if edits is not None else None
        if change:
            found, high = change, middle
        else:
            low, stride = middle + 1, 2 * stride
    return found


def _world_sizes(scenario: Scenario, end: int) -> list[int]:
    """Return the world sizes between the scenario's and `end`: ranks of one host, then whole hosts."""
    cluster = scenario.cluster
    fills_host = cluster.device != "cpu" and cluster.local_world_size == default_local_world_size(
        cluster.hardware, cluster.world_size
    )
    host = cluster.hardware.devices if fills_host else cluster.local_world_size
    within_host = range(cluster.world_size + 1, min(host, end)) if fills_host else range(0)
    return [*within_host, *range(host * (cluster.world_size // host + 1), end, host)]


def _resized(scenario: Scenario, world_size: int) -> tuple[Cluster, list[str]]:
    """Return a cluster of another world size, and the options that ask for it. CPU hosts keep their size."""
    cluster = scenario.cluster
    if world_size == cluster.world_size:
        return cluster, []
    hardware, local = cluster.hardware, cluster.local_world_size
    default = default_local_world_size(hardware, world_size)
    if cluster.device != "cpu" and local == default_local_world_size(hardware, cluster.world_size):
        local = default
    implied = local == (scenario.local_world_size_asked or default)
    host_options = [] if implied else [f"--local-world-size {local}"]
    return Cluster(hardware, world_size, local), [f"--world-size {world_size}", *host_options]


def _is_slow(scenario: Scenario, edits: Edits, world_size: int) -> bool:
    """Return whether there would be more shards than can be planned in a few seconds."""
    tables = len(table_values(scenario.config, scenario.workload))
    counts = Counter(value for key, value in edits.items() if key.startswith("sharding.tables."))
    kind = edits.get("sharding.kind")
    if kind and _has_shard_per_rank(sharding_kind(kind)):
        counts[kind] += tables
    kinds = [each for each in SHARDING_KINDS.values() if _has_shard_per_rank(each)]
    partitions = sum(counts[each.name] for each in kinds if each.partitioned) * world_size
    shards = sum(counts[each.name] for each in kinds) * world_size
    return partitions > MAX_PARTITIONS or shards > MAX_SHARDS


def _has_shard_per_rank(kind: ShardingKind) -> bool:
    return kind.partitioned or kind.shards == "one_per_rank"


def _note(before: ResolvedConfig, after: ResolvedConfig, plan: Plan) -> str:
    """Return what a change means for the model beside its purpose."""
    notes = []
    if after.model.table_dtype != before.model.table_dtype:
        notes.append("values then keep 11 bits of 24")
    cut = any(
        sharding_kind(table.sharding).cut == "columns" and len(table.shards) > 1 for table in plan.tables
    )
    if cut and after.optimizer.name == "rowwise_adagrad":
        notes.append("each part of a row then has its own statistic")
    return "; ".join(notes)


def _edited(config: Any, edits: Edits) -> Any:
    """Return the configuration with other values at dotted keys, of a section or of a table in one."""
    for key, value in edits.items():
        section, name, *table = key.split(".", 2)
        values = getattr(config, section)
        if table:
            value = {**getattr(values, name), table[0]: value}
        config = replace(config, **{section: replace(values, **{name: value})})
    return config


def _as_option(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
