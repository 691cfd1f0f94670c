"""What could be changed about a plan, each change planned anew: remedies where it does not fit; advice."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from trainer.config.parser import check
from trainer.config.schema import Config
from trainer.errors import ConfigError
from trainer.inspection.scenario import Scenario, ranks_of_host, without_gaps
from trainer.planning.capacity import TooLargeError
from trainer.planning.hardware import KNOWN
from trainer.planning.layout import lay_out, table_values
from trainer.planning.plan import Plan

SEARCH_SECONDS = 30
"""After that, no further change is tried."""
MOST_RANKS, MOST_PARTS, MOST_SHARDS = 4096, 2048, 50_000
"""Ranks, parts of row-partitioned tables and shards of others beyond which nothing is tried."""
ONE_A_RANK = ("row_partitioned", "row_wise", "data_parallel")
"""Kinds with a shard on every rank."""
MOST_NAMED = 4
"""Tables that a change names one by one; more of them change together with all others."""
WORTH = 0.95
"""A change is worth naming if it takes the estimated step, or the fullest rank, to this share or below."""
LEAST_MS, LEAST_SHARE = 0.05, 0.01
"""It must also save so much: starting a kernel is not in the estimate, and memory is to be used."""

Edits: TypeAlias = Mapping[str, Any]
"""Changes of the configuration by dotted key, as the command line has them."""
SMALLER: Edits = {"model.table_dtype": "float16"}
Cut: TypeAlias = Callable[[int], Edits | None]
"""Changes that cut tables for so many ranks; None where there are none."""


@dataclass(frozen=True)
class Change:
    """One change of a case, and the plan that it gives.

    Attributes:
        options: to be added to the command.
        note: what else it changes; empty: nothing.
    """

    options: str
    plan: Plan
    note: str = ""


def fullest(plan: Plan) -> int:
    """Bytes on the fullest rank."""
    return max(load.bytes for load in plan.ranks)


def plan_of(case: Scenario) -> Plan:
    """The plan of a case.

    Raises: TooLargeError, or ConfigError for a sharding that cannot be.
    """
    return lay_out(case.config, case.sizes, case.hardware, case.world_size, case.local_world_size)


def alternatives(case: Scenario) -> list[Change]:
    """Tables of a smaller type, and the largest or all under other kinds of sharding, where these exist."""
    return _found(_alternatives(case))


def best_change(plan: Plan, changes: list[Change]) -> Change | None:
    """The change with the shortest estimated step, or else the least full rank; None: none is worth it."""
    step, full = plan.estimated_step_ms, fullest(plan)
    fastest = min((change.plan.estimated_step_ms for change in changes), default=step)
    if fastest <= min(WORTH * step, step - LEAST_MS):
        as_fast = [change for change in changes if change.plan.estimated_step_ms <= fastest / WORTH]
        return min(as_fast, key=lambda change: fullest(change.plan))
    as_fast = [change for change in changes if change.plan.estimated_step_ms <= max(step / WORTH, LEAST_MS)]
    smaller = min(as_fast, key=lambda change: fullest(change.plan), default=None)
    enough = min(WORTH * full, full - LEAST_SHARE * plan.ranks[0].capacity_bytes)
    return smaller if smaller and fullest(smaller.plan) <= enough else None


def remedies(case: Scenario) -> list[Change]:
    """Changes after each of which the tables fit, the smallest world size for each kind of sharding first."""
    return _found(_remedies(case))


def _alternatives(case: Scenario) -> Iterator[Change | None]:
    if case.config.model.table_dtype == "float32":
        yield _changed(case, SMALLER)
    for kind in _kinds(case) if case.world_size > 1 else ():
        for edits in (_largest_sharded(case, kind), _all_sharded(case, kind)):
            if edits is not None:
                yield _changed(case, edits)


def _remedies(case: Scenario) -> Iterator[Change | None]:
    least = MOST_RANKS + 1
    yield _smallest_world(case, lambda size: {})
    for kind in _kinds(case):
        if kind != "data_parallel":
            few, every = (_smallest_world(case, cut) for cut in _cuts(case, kind))
            yield few
            yield every if not few or (every and every.plan.world_size < few.plan.world_size) else None
            least = min([least, *(change.plan.world_size for change in (few, every) if change)])
    if case.config.model.table_dtype == "float32":
        yield _here_or_larger(case, SMALLER, least)
    for width in _narrower(case.config.model.dim):
        narrower = _here_or_larger(case, {"model.dim": width}, least)
        yield narrower
        if narrower and narrower.plan.world_size == case.world_size:
            break
    if case.hardware.device == "cuda" and not case.config.sharding.uvm_caching:
        yield _here_or_larger(case, {"sharding.uvm_caching": True}, least)
    for name in ("rowwise_adagrad", "sgd"):
        if case.config.optimizer.name not in (name, "sgd"):
            yield _here_or_larger(case, {"optimizer.name": name}, least)
    yield _larger_device(case)


def _found(changes: Iterable[Change | None]) -> list[Change]:
    """Those of the changes that give a plan, until the time is over; none twice."""
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


def _kinds(case: Scenario) -> list[str]:
    """Kinds of sharding that may help: cut by rows, a GPU's own does what partitions do elsewhere."""
    by_rows = ["row_partitioned"] if case.hardware.device == "cpu" else ["row_wise"]
    if case.hardware.device == "cuda" and case.world_size > case.local_world_size:
        by_rows.append("table_row_wise")
    return ["column_wise", *by_rows, "data_parallel"]


def _cuts(case: Scenario, kind: str) -> tuple[Cut, Cut]:
    """The largest tables of a kind, and all of them."""
    return (
        lambda size: _largest_sharded(replace(case, world_size=size), kind),
        lambda size: _all_sharded(case, kind),
    )


def _all_sharded(case: Scenario, kind: str) -> dict[str, Any]:
    """Every table of that kind, whatever was asked for."""
    sharding = case.asked.sharding
    given = {"tables": sharding.tables, "partitions": sharding.partitions, "ranks": sharding.ranks}
    reset: dict[str, Any] = {f"sharding.{name}": {} for name, value in given.items() if value}
    return reset | ({"sharding.plan": None} if sharding.plan else {}) | {"sharding.kind": kind}


def _largest_sharded(case: Scenario, kind: str) -> dict[str, Any] | None:
    """The largest tables of that kind and the others whole, or the others copied where that is the kind."""
    values = table_values(case.config, case.sizes)
    even = sum(values.values()) / case.world_size
    largest = [name for name, count in values.items() if count > even]
    if not largest or len(largest) > MOST_NAMED or len(largest) == len(values):
        return None
    own, others = ("table_wise", kind) if kind == "data_parallel" else (kind, "table_wise")
    edits = _all_sharded(case, others)
    if others == case.asked.sharding.kind:
        del edits["sharding.kind"]
    return edits | {f"sharding.tables.{name}": own for name in largest}


def _changed(case: Scenario, edits: Edits, world_size: int | None = None) -> Change | None:
    """The case with some keys changed and the same optimizer; None where that cannot be or does not fit."""
    try:
        return _planned(case, edits, world_size)
    except ConfigError:
        return None


def _planned(case: Scenario, edits: Edits, world_size: int | None = None) -> Change:
    """As `_changed`.

    Raises: TooLargeError, or ConfigError for what cannot be.
    """
    asked, size = _edited(case.asked, edits), world_size or case.world_size
    if _too_many(case, edits, size):
        raise ConfigError("tables in so many pieces are not tried")
    config = without_gaps(asked, case.counts)
    if "optimizer.name" not in edits and config.optimizer.name != case.config.optimizer.name:
        # What the size decides must not change, too.
        edits = {**edits, "optimizer.name": case.config.optimizer.name}
        asked = _edited(case.asked, edits)
        config = without_gaps(asked, case.counts)
    check(config)
    local, words = _hosts(case, size)
    options = " ".join([*(f"--{key} {_word(value)}" for key, value in edits.items()), *words])
    changed = replace(case, asked=asked, config=config, world_size=size, local_world_size=local)
    plan = plan_of(changed)
    return Change(options, plan, _note(case, config, plan))


def _note(case: Scenario, config: Config, plan: Plan) -> str:
    """What a change means for the model, beside what it is to do."""
    notes = []
    if config.model.table_dtype != case.config.model.table_dtype:
        notes.append("values then keep 11 bits of 24")
    cut = any("column_wise" in table.sharding and len(table.shards) > 1 for table in plan.tables)
    if cut and config.optimizer.name == "rowwise_adagrad":
        notes.append("each part of a row then has its own statistic")
    return "; ".join(notes)


def _hosts(case: Scenario, world_size: int) -> tuple[int, list[str]]:
    """Ranks of a host in another world, and the options that say so. On CPU hosts stay as they are."""
    hardware, local = case.hardware, case.local_world_size
    if world_size == case.world_size:
        return local, []
    if hardware.device != "cpu" and local == ranks_of_host(hardware, case.world_size):
        local = ranks_of_host(hardware, world_size)
    silent = local == (case.ranks_of_host or ranks_of_host(hardware, world_size))
    more = [] if silent else [f"--local-world-size {local}"]
    return local, [f"--world-size {world_size}", *more]


def _smallest_world(case: Scenario, cut: Cut) -> Change | None:
    """The changes of `cut` at the smallest world size at which the tables fit."""
    size, before, least = case.world_size, None, case.world_size
    while size <= MOST_RANKS:
        edits = cut(size)
        if edits is None:
            return None
        try:
            return _smaller_world(case, cut, least, _planned(case, edits, size))
        except TooLargeError as error:
            uncut = error.largest if error.largest[1] > error.available else None
            if uncut and uncut == before:
                return None
            before = uncut
            # Below that even the most even placement does not fit.
            least = max(size + 1, -(-error.total // error.available))
            size *= 2 ** max(1, math.ceil(math.log2(error.total / (size * error.available))))
        except ConfigError:
            return None
    return None


def _smaller_world(case: Scenario, cut: Cut, least: int, found: Change) -> Change:
    """The changes of `cut` at a world size from `least` on, or else those found at a larger one."""
    sizes = [size for size in _world_sizes(case, found.plan.world_size) if size >= least]
    low, high, stride = 0, len(sizes), 1
    while low < high:
        # The least is often enough, and plans of few ranks are made sooner: strides grow from there.
        middle = min(low + stride - 1, (low + high) // 2)
        edits = cut(sizes[middle])
        change = _changed(case, edits, sizes[middle]) if edits is not None else None
        if change:
            found, high = change, middle
        else:
            low, stride = middle + 1, 2 * stride
    return found


def _world_sizes(case: Scenario, end: int) -> list[int]:
    """World sizes below `end` and above the case's: ranks of one host, then whole hosts."""
    grows = case.hardware.device != "cpu" and case.local_world_size == ranks_of_host(
        case.hardware, case.world_size
    )
    host = case.hardware.devices if grows else case.local_world_size
    one = range(case.world_size + 1, min(host, end)) if grows else range(0)
    return [*one, *range(host * (case.world_size // host + 1), end, host)]


def _too_many(case: Scenario, edits: Edits, world_size: int) -> bool:
    """Whether that would cut tables into more pieces than can be planned in some seconds."""
    kind, tables = edits.get("sharding.kind"), len(table_values(case.config, case.sizes))
    cut = Counter(value for key, value in edits.items() if key.startswith("sharding.tables."))
    if kind in ONE_A_RANK:
        cut[kind] += tables
    whole = cut["row_partitioned"] * world_size > MOST_PARTS
    return whole or sum(cut[kind] for kind in ONE_A_RANK) * world_size > MOST_SHARDS


def _here_or_larger(case: Scenario, edits: Edits, least: int) -> Change | None:
    """The changes alone, or else with tables cut by rows and more ranks, but fewer than `least`."""
    few, every = _cuts(case, _kinds(case)[1])
    if alone := _changed(case, edits):
        return alone
    for cut in (few, every):
        if _changed(case, cut(case.world_size) or {}):
            return None  # cutting by rows does it without these
        if with_rows := _changed(case, {**edits, **(cut(case.world_size) or {})}):
            return with_rows
    # Every table cut takes the fewest ranks, where it is not too many pieces.
    for cut in (every, few):
        if larger := _smallest_world(case, lambda size, cut=cut: {**edits, **(cut(size) or {})}):
            return larger if larger.plan.world_size < least else None
    return None


def _narrower(dim: int) -> list[int]:
    """Widths of half and a quarter: vectors narrower than that are another model."""
    return [width for width in (dim // 2 // 4 * 4, dim // 4 // 4 * 4) if width]


def _larger_device(case: Scenario) -> Change | None:
    """The smallest known GPU with more memory that holds the tables."""
    for name, known in sorted(KNOWN.items(), key=lambda entry: entry[1].memory):
        if case.hardware.device == "cuda" and known.memory > case.hardware.memory:
            local = case.ranks_of_host or ranks_of_host(known, case.world_size)
            change = _changed(replace(case, hardware=known, local_world_size=local), {})
            if change:
                return replace(change, options=f"--hardware {name}")
    return None


def _edited(config: Any, edits: Edits) -> Any:
    """The configuration with other values at dotted keys, of a section or of a table in one."""
    for key, value in edits.items():
        section, name, *table = key.split(".", 2)
        part = getattr(config, section)
        if table:
            value = {**getattr(part, name), table[0]: value}
        config = replace(config, **{section: replace(part, **{name: value})})
    return config


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
