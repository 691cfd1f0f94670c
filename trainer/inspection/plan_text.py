"""A sharding plan as text: its tables, its ranks, and what could be better."""

import textwrap
from collections.abc import Sequence
from itertools import groupby

from trainer.facts.sharding_kinds import sharding_kind
from trainer.formatting import format_bytes, format_count, format_milliseconds, format_ranks
from trainer.inspection.changes import Change
from trainer.planning.plan import Plan, RankLoad, Shard, Table

WIDTH = 80
SHOWN_TABLES, SHOWN_RANKS, SHOWN_SHARDS = 40, 16, 4


def plan_text(plan: Plan, source: str) -> str:
    """Return a plan as text of at most 80 columns.

    Args:
        plan: The plan.
        source: Where the hardware's figures are from; empty if that is not known.
    """
    hosts = plan.world_size // plan.local_world_size
    where = f"{format_count(plan.world_size, 'rank')} of {plan.hardware}, {format_count(hosts, 'host')}"
    lines = [where, *(textwrap.wrap(source, WIDTH, initial_indent="  ", subsequent_indent="  "))]
    lines += ["", *_tables(plan), "", *_places(plan), "", *_ranks(plan)]
    lines += [*_hosts(plan), "", *_wrapped(_costs(plan))]
    return "\n".join(lines)


def advice_text(plan: Plan, change: Change | None) -> str:
    """Return what limits a plan, and the change that helps most; None: none was found."""
    slowest = max(plan.ranks, key=lambda load: load.compute_ms + load.communication_ms)
    step = slowest.compute_ms + slowest.communication_ms
    limit, share = max(
        (
            ("moving ids and vectors", slowest.communication_ms),
            ("looking up and updating", slowest.compute_ms),
        ),
        key=lambda entry: entry[1],
    )
    text = f"Limit: {limit} on rank {slowest.rank}, {100 * share / max(step, 1e-12):.0f}% of its step. "
    if change is None:
        return "\n".join(_wrapped(text + "No other sharding that was tried is estimated to help much."))
    note = f" ({change.note})" if change.note else ""
    return "\n".join(
        _wrapped(f"{text}What helps most: {change.options}: {_figures(plan, change.plan)}{note}.")
    )


def remedies_text(changes: Sequence[Change]) -> str:
    """Return numbered remedies with their figures, to follow a sentence on what does not fit."""
    if not changes:
        return "\n  No change of sharding, width, optimizer or world size that was tried makes them fit."
    lines = []
    for number, change in enumerate(changes, 1):
        load = max(change.plan.ranks, key=lambda load: load.bytes)
        lines.append(
            f"  {number}. {change.options}: {format_bytes(load.bytes)} of "
            f"{format_bytes(load.capacity_bytes)} on the fullest rank, step of "
            f"{format_milliseconds(change.plan.estimated_step_ms)} (estimate)"
        )
    return "\n" + "\n".join(lines)


def _figures(before: Plan, after: Plan) -> str:
    steps = [format_milliseconds(plan.estimated_step_ms) for plan in (before, after)]
    sizes = [format_bytes(plan.fullest_bytes) for plan in (before, after)]
    return f"estimated step {' -> '.join(steps)}, fullest rank {' -> '.join(sizes)}"


def _tables(plan: Plan) -> list[str]:
    rows = [("table", "rows", "dim", "type", "sharding", "weights", "state", "ids/step")]
    rows += [_table(table) for table in plan.tables[:SHOWN_TABLES]]
    lines = _aligned(rows, left=(0, 3, 4))
    left_out = plan.tables[SHOWN_TABLES:]
    if left_out:
        size = sum(shard.weight_bytes for table in left_out for shard in table.shards)
        lines.append(f"and {format_count(len(left_out), 'table')} more, {format_bytes(size)} of weights")
    return lines


def _table(table: Table) -> tuple[str, ...]:
    return (
        table.name,
        f"{table.rows:,}",
        str(table.dim),
        table.dtype,
        table.sharding,
        format_bytes(sum(shard.weight_bytes for shard in table.shards)),
        format_bytes(sum(shard.optimizer_bytes for shard in table.shards)),
        f"{table.lookups:,}",
    )


def _places(plan: Plan) -> list[str]:
    """Return the ranks and the kernel of each table, and its ids per bag where that is not one."""
    lines = []
    for table in plan.tables[:SHOWN_TABLES]:
        bag = "" if table.pooling_factor == 1 else f", {table.pooling_factor:.3g} ids a bag"
        text = f"{table.name} ({table.kernel}{bag}): {_place(table)}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _place(table: Table) -> str:
    if sharding_kind(table.sharding).cut == "copies":
        return "whole on every rank"
    if len(table.shards) == 1:
        return f"whole on rank {table.shards[0].rank}"
    if len(table.shards) <= SHOWN_SHARDS:
        return ", ".join(_shard(shard, table) for shard in table.shards)
    by_rows = table.shards[0].columns == table.dim
    size = max(shard.rows if by_rows else shard.columns for shard in table.shards)
    ranks = format_ranks({shard.rank for shard in table.shards})
    word = "rows" if by_rows else "columns"
    return f"{len(table.shards):,} shards of up to {size:,} {word} on ranks {ranks}"


def _shard(shard: Shard, table: Table) -> str:
    if shard.columns == table.dim:
        part = f"rows {shard.row_offset:,}-{shard.row_offset + shard.rows - 1:,}" if shard.rows else "no rows"
    else:
        part = f"columns {shard.column_offset}-{shard.column_offset + shard.columns - 1}"
    return f"{part} on rank {shard.rank}"


def _ranks(plan: Plan) -> list[str]:
    """Return a line per run of ranks with equal loads; of many such runs the fullest and the emptiest."""
    groups = [
        (format_ranks(load.rank for load in group), group[0])
        for _, alike in groupby(plan.ranks, key=_load)
        if (group := list(alike))
    ]
    note = []
    if len(groups) > SHOWN_RANKS:
        by_bytes = sorted(groups, key=lambda group: -group[1].bytes)
        groups = by_bytes[: SHOWN_RANKS // 2] + by_bytes[-SHOWN_RANKS // 2 :]
        note = [f"(the {SHOWN_RANKS // 2} fullest and the {SHOWN_RANKS // 2} emptiest of them)"]
    header = ("rank", "bytes", "of capacity", "ids/step", "sent", "received", "compute", "moving")
    return _aligned([header, *((name, *_load(load)) for name, load in groups)], left=(0,)) + note


def _hosts(plan: Plan) -> list[str]:
    """Return what ranks hold in host memory behind caches, the fullest first; nothing if none does."""
    held = sorted(plan.ranks, key=lambda load: -load.host_bytes)
    groups = [
        (format_ranks(load.rank for load in group), group[0])
        for size, alike in groupby(held, key=lambda load: load.host_bytes)
        if size and (group := list(alike))
    ]
    if not groups:
        return []
    rows = [
        (name, format_bytes(load.host_bytes), _percent(load.host_bytes / load.host_capacity_bytes))
        for name, load in groups[:SHOWN_RANKS]
    ]
    return ["", *_aligned([("rank", "behind a cache in its host", "of capacity"), *rows], left=(0,))]


def _load(load: RankLoad) -> tuple[str, ...]:
    return (
        format_bytes(load.bytes),
        _percent(load.bytes / load.capacity_bytes),
        f"{load.lookups:,}",
        format_bytes(load.bytes_sent),
        format_bytes(load.bytes_received),
        format_milliseconds(load.compute_ms),
        format_milliseconds(load.communication_ms),
    )


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"


def _costs(plan: Plan) -> str:
    text = (
        f"Estimated step: {format_milliseconds(plan.estimated_step_ms)} (TorchRec's estimate for the "
        f"tables alone, not a measurement). Imbalance: {plan.imbalance:.2f} (fullest rank over mean)."
    )
    idle = plan.idle_ranks
    if idle:
        word = "Rank" if len(idle) == 1 else "Ranks"
        holds = "holds" if len(idle) == 1 else "hold"
        text += f" {word} {format_ranks(idle)} {holds} no table."
    return text


def _aligned(rows: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    """Return aligned columns; the first one is cut if the lines would be too wide."""
    others = sum(max(len(row[place]) for row in rows) + 2 for place in range(1, len(rows[0])))
    rows = [(_cut(row[0], WIDTH - others), *row[1:]) for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if place in left else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)
