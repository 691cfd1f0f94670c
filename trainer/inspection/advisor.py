"""What `plan` advises: the change that helps most, or the remedies if the tables do not fit."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from trainer.facts.sharding_kinds import SHARDING_KINDS, ShardingKind
from trainer.inspection.changes import (
    MAX_RANKS,
    Change,
    Edits,
    EditsAt,
    all_tables,
    smallest_world,
    try_change,
)
from trainer.inspection.scenario import Scenario, default_local_world_size
from trainer.planning.hardware import KNOWN, Cluster
from trainer.planning.layout import table_values
from trainer.planning.plan import Plan

SEARCH_SECONDS = 30
"""Seconds after which no further change is tried."""
MAX_NAMED_TABLES = 4
"""Tables that a change names one by one; more of them change together with all others."""
WORTHWHILE = 0.95
"""A change is advised if it takes the estimated step, or the fullest rank, to this share or below."""
MIN_SAVED_MS, MIN_SAVED_SHARE = 0.05, 0.01
"""It must also save that much: kernel launches are not in the estimate, and memory is there to be used."""
SMALLER_TYPE: Edits = {"model.table_dtype": "float16"}


def alternatives(scenario: Scenario) -> list[Change]:
    """Return the plans with a smaller type, and with the largest or all tables sharded otherwise."""
    return _found_in_time(_alternatives(scenario))


def best_change(plan: Plan, changes: list[Change]) -> Change | None:
    """Return the change with the shortest estimated step, or else the smallest fullest rank.

    Args:
        plan: The plan as it is.
        changes: Alternatives to it.

    Returns:
        None if no change is worthwhile.
    """
    step, full = plan.estimated_step_ms, plan.fullest_bytes
    fastest = min((change.plan.estimated_step_ms for change in changes), default=step)
    if fastest <= min(WORTHWHILE * step, step - MIN_SAVED_MS):
        as_fast = [change for change in changes if change.plan.estimated_step_ms <= fastest / WORTHWHILE]
        return min(as_fast, key=lambda change: change.plan.fullest_bytes)
    longest = max(step / WORTHWHILE, MIN_SAVED_MS)
    as_fast = [change for change in changes if change.plan.estimated_step_ms <= longest]
    smallest = min(as_fast, key=lambda change: change.plan.fullest_bytes, default=None)
    enough = min(WORTHWHILE * full, full - MIN_SAVED_SHARE * plan.ranks[0].capacity_bytes)
    return smallest if smallest and smallest.plan.fullest_bytes <= enough else None


def remedies(scenario: Scenario) -> list[Change]:
    """Return changes with which the tables fit, the smallest world size for each kind of sharding first."""
    return _found_in_time(_remedies(scenario))


def _found_in_time(changes: Iterable[Change | None]) -> list[Change]:
    """Return the changes that give a plan, each once, until the time is over."""
    found: dict[str, Change] = {}
    start = before = time.monotonic()
    longest = 0.0
    for change in changes:
        if change is not None:
            found.setdefault(change.options, change)
        now = time.monotonic()
        longest, before = max(longest, now - before), now
        if now + longest > start + SEARCH_SECONDS:
            break
    return list(found.values())


def _alternatives(scenario: Scenario) -> Iterator[Change | None]:
    if scenario.config.model.table_dtype == "float32":
        yield try_change(scenario, SMALLER_TYPE)
    for kind in _advised_kinds(scenario) if scenario.cluster.world_size > 1 else ():
        for edits in (_largest_tables(scenario, kind), all_tables(scenario, kind.name)):
            if edits is not None:
                yield try_change(scenario, edits)


def _remedies(scenario: Scenario) -> Iterator[Change | None]:
    fewest = MAX_RANKS + 1
    yield smallest_world(scenario, lambda size: {})
    for kind in _advised_kinds(scenario):
        if kind.cut == "copies":
            continue
        largest, every = (smallest_world(scenario, edits_at) for edits_at in _edits_of(scenario, kind))
        yield largest
        better = every and (not largest or every.plan.world_size < largest.plan.world_size)
        yield every if better else None
        fewest = min([fewest, *(change.plan.world_size for change in (largest, every) if change)])
    if scenario.config.model.table_dtype == "float32":
        yield _here_or_larger(scenario, SMALLER_TYPE, fewest)
    for width in _narrower(scenario.config.model.dim):
        narrower = _here_or_larger(scenario, {"model.dim": width}, fewest)
        yield narrower
        if narrower and narrower.plan.world_size == scenario.cluster.world_size:
            break
    if scenario.cluster.device == "cuda" and not scenario.config.sharding.uvm_caching:
        yield _here_or_larger(scenario, {"sharding.uvm_caching": True}, fewest)
    for name in ("rowwise_adagrad", "sgd"):
        if scenario.config.optimizer.name not in (name, "sgd"):
            yield _here_or_larger(scenario, {"optimizer.name": name}, fewest)
    yield _larger_device(scenario)


def _advised_kinds(scenario: Scenario) -> list[ShardingKind]:
    """Return the kinds of sharding that may help; those within a host only if there are several hosts."""
    cluster = scenario.cluster
    return [
        kind
        for kind in SHARDING_KINDS.values()
        if cluster.device in kind.advised_on and (cluster.hosts > 1 or kind.shards != "one_per_host_rank")
    ]


def _edits_of(scenario: Scenario, kind: ShardingKind) -> tuple[EditsAt, EditsAt]:
    """Return the edits that shard the largest tables, and all of them, in one way."""

    def largest(world_size: int) -> Edits | None:
        cluster = replace(scenario.cluster, world_size=world_size)
        return _largest_tables(replace(scenario, cluster=cluster), kind)

    return largest, lambda world_size: all_tables(scenario, kind.name)


def _largest_tables(scenario: Scenario, kind: ShardingKind) -> dict[str, Any] | None:
    """Return the edits that cut the largest tables and leave the others whole; None if that names too many.

    Of copies it is the other way round: the largest stay whole, and the others are copied.
    """
    values = table_values(scenario.config, scenario.workload)
    even_share = sum(values.values()) / scenario.cluster.world_size
    largest = [name for name, count in values.items() if count > even_share]
    if not largest or len(largest) > MAX_NAMED_TABLES or len(largest) == len(values):
        return None
    of_largest, of_others = ("table_wise", kind.name) if kind.cut == "copies" else (kind.name, "table_wise")
    edits = all_tables(scenario, of_others)
    if of_others == scenario.asked.sharding.kind:
        del edits["sharding.kind"]
    return edits | {f"sharding.tables.{name}": of_largest for name in largest}


def _here_or_larger(scenario: Scenario, edits: Edits, fewest: int) -> Change | None:
    """Return the edits alone, or else with tables cut by rows and more ranks, but fewer than `fewest`."""
    if alone := try_change(scenario, edits):
        return alone
    by_rows = next(kind for kind in _advised_kinds(scenario) if kind.cut == "rows")
    largest, every = _edits_of(scenario, by_rows)
    for cut in (largest, every):
        cut_here = cut(scenario.cluster.world_size) or {}
        if try_change(scenario, cut_here):
            return None  # cutting by rows is enough
        if with_rows := try_change(scenario, {**edits, **cut_here}):
            return with_rows
    # Cutting every table takes the fewest ranks, unless there are too many shards.
    for cut in (every, largest):
        if larger := smallest_world(scenario, lambda size, cut=cut: {**edits, **(cut(size) or {})}):
            return larger if larger.plan.world_size < fewest else None
    return None


def _narrower(dim: int) -> list[int]:
    """Return half and a quarter of a width: narrower vectors make another model."""
    return [width for width in (dim // 2 // 4 * 4, dim // 4 // 4 * 4) if width]


def _larger_device(scenario: Scenario) -> Change | None:
    """Return the smallest known GPU with more memory that holds the tables."""
    cluster = scenario.cluster
    for name, known in sorted(KNOWN.items(), key=lambda entry: entry[1].memory):
        if cluster.device == "cuda" and known.memory > cluster.hardware.memory:
            default = default_local_world_size(known, cluster.world_size)
            local = scenario.local_world_size_asked or default
            larger = replace(scenario, cluster=Cluster(known, cluster.world_size, local))
            change = try_change(larger, {})
            if change:
                return replace(change, options=f"--hardware {name}")
    return None
