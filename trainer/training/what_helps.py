"""What could be changed about a plan, each change planned anew: remedies where it does not fit; advice."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from trainer.errors import ConfigError
from trainer.parallel.placement import TooLargeError
from trainer.parallel.plan import Plan
from trainer.training.by_size import ADAM_SHARDINGS, settled
from trainer.training.layout import lay_out
from trainer.training.what_if import Case

SEARCH_SECONDS = 30
"""After that, no further change is tried."""
MOST_RANKS, MOST_SHARDS = 4096, 100_000
KINDS = {
    "cpu": ("column_wise", "row_partitioned", "data_parallel"),
    "cuda": ("column_wise", "row_wise", "data_parallel"),
}
"""Kinds of sharding to be tried: where there is `row_wise`, partitions do the same with more tables."""
LEAST_DIM = 16
WORTH = 0.95
"""A change is worth naming if it takes the estimated step, or the fullest rank, to this share or below."""


@dataclass(frozen=True)
class Change:
    """One change of a case, in the words of the command line, and the plan that it gives."""

    options: str
    plan: Plan


def fullest(plan: Plan) -> int:
    """Bytes on the fullest rank."""
    return max(load.bytes for load in plan.ranks)


def plan_of(case: Case) -> Plan:
    """The plan of a case.

    Raises: TooLargeError, or ConfigError for a sharding that cannot be.
    """
    return lay_out(case.config, case.sizes, case.hardware, case.world_size, case.local_world_size)


def alternatives(case: Case) -> list[Change]:
    """The case's tables under each other kind of sharding that its hardware and optimizer have."""
    if case.world_size == 1:
        return []  # a rank alone has all of every table
    tables = len(case.sizes.user_tables) + len(case.sizes.item_tables)
    many = tables * case.world_size > MOST_SHARDS
    kinds = [
        kind
        for kind in KINDS[case.hardware.device]
        if kind != case.config.sharding.kind and not (many and kind != "column_wise")
    ]
    return _tried((_options(case, kind), partial(_try_at, _sharded(case, kind))) for kind in kinds)


def best_change(plan: Plan, changes: list[Change]) -> Change | None:
    """The change with the shortest estimated step, or else the least full rank; None: none is worth it."""
    faster = min(changes, key=lambda change: change.plan.estimated_step_ms, default=None)
    if faster and faster.plan.estimated_step_ms <= WORTH * plan.estimated_step_ms:
        return faster
    as_fast = [
        change for change in changes if change.plan.estimated_step_ms <= plan.estimated_step_ms / WORTH
    ]
    smaller = min(as_fast, key=lambda change: fullest(change.plan), default=None)
    return smaller if smaller and fullest(smaller.plan) <= WORTH * fullest(plan) else None


def remedies(case: Case) -> list[Change]:
    """Changes after each of which the tables fit, the smallest world size for each kind of sharding first."""
    return _tried(_remedies(case))


def _remedies(case: Case) -> Iterator[tuple[str, Callable[[], tuple[Plan, str]]]]:
    kind, config = case.config.sharding.kind, case.config
    yield "", partial(_smallest_world, case)
    for other in KINDS[case.hardware.device]:
        if other not in (kind, "data_parallel"):  # copies only need more
            yield _options(case, other), partial(_smallest_world, _sharded(case, other))
    dim = settled(config.model.dim)
    yield "", partial(_fewer_dims, case, dim)
    if case.hardware.device == "cuda" and not config.sharding.uvm_caching:
        for name in dict.fromkeys((kind, "row_wise")):
            more = f" {_options(case, name)}" if name != kind else ""
            cached = _sharded(case, name, uvm_caching=True)
            yield f"--sharding.uvm_caching true{more}", partial(_try_at, cached)
    for name in ("rowwise_adagrad", "sgd"):
        if config.optimizer.name not in (name, "sgd"):
            changed = replace(config, optimizer=replace(config.optimizer, name=name))
            yield f"--optimizer.name {name}", partial(_try_at, replace(case, config=changed))


def _tried(attempts: Iterator[tuple[str, Callable[[], tuple[Plan, str]]]]) -> list[Change]:
    """Those changes that give a plan."""
    found, end = [], time.monotonic() + SEARCH_SECONDS
    for options, attempt in attempts:
        if time.monotonic() > end:
            break
        try:
            plan, more = attempt()
        except ConfigError:
            continue
        # A cache that nothing needs changes nothing.
        if all(plan != change.plan for change in found):
            found.append(Change(" ".join(filter(None, (options, more))), plan))
    return found


def _try_at(case: Case) -> tuple[Plan, str]:
    return plan_of(case), ""


def _smallest_world(case: Case) -> tuple[Plan, str]:
    """The plan at the smallest of the doubled world sizes at which the tables fit.

    Raises: TooLargeError if they do at none.
    """
    size, before = case.world_size, None
    while True:
        try:
            plan = plan_of(replace(case, world_size=size))
            return plan, "" if size == case.world_size else f"--world-size {size}"
        except TooLargeError as error:
            uncut = error.largest if error.largest[1] > error.available else None
            if size >= MOST_RANKS or (uncut and uncut == before):
                raise
            before = uncut
            # Below that even the most even placement does not fit.
            size *= 2 ** max(1, math.ceil(math.log2(error.total / (size * error.available))))


def _fewer_dims(case: Case, dim: int) -> tuple[Plan, str]:
    """The plan at the largest halved width at which the tables fit.

    Raises: ConfigError if they do at none of use.
    """
    while (dim := dim // 2 // 4 * 4) >= LEAST_DIM:
        model = replace(case.config.model, dim=dim)
        try:
            plan = plan_of(replace(case, config=replace(case.config, model=model)))
        except TooLargeError:
            continue
        return plan, f"--model.dim {dim}"
    raise ConfigError(f"the tables do not fit at a width of {LEAST_DIM}")


def _options(case: Case, kind: str) -> str:
    """Options for another kind of sharding, under which another optimizer might be the default."""
    optimizer = case.config.optimizer.name
    keep = f" --optimizer.name {optimizer}" if optimizer == "adam" and kind not in ADAM_SHARDINGS else ""
    return f"--sharding.kind {kind}{keep}"


def _sharded(case: Case, kind: str, **more: Any) -> Case:
    changes: dict[str, Any] = {"kind": kind, "tables": {}, "partitions": {}, "ranks": {}} | more
    sharding = replace(case.config.sharding, **changes)
    return replace(case, config=replace(case.config, sharding=sharding))
