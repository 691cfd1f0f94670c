"""The difference of two plans: totals, tables sharded otherwise, and bytes to move."""

import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from trainer.formatting import format_bytes, format_count, format_milliseconds, format_ranks
from trainer.planning.plan import Plan, Shard, Table

WIDTH = 80
SHOWN_TABLES = 20
TOTALS = "{:<30} {:>17} {:>17} {:>13}"
TABLES = "{:<21} {:<24} {:<24} {:>8}"
NAME, CELL = 21, 24
"""Widths of the first columns of `TABLES`."""


@dataclass(frozen=True)
class Totals:
    """A plan in a few numbers.

    Attributes:
        ranks: Ranks in all.
        bytes: Bytes on all ranks.
        fullest_bytes: Bytes on the fullest rank.
        imbalance: Bytes of the fullest rank over the mean.
        bytes_sent: Bytes that all ranks send to others in a step.
        estimated_step_ms: TorchRec's estimate of a step.
        idle_ranks: Number of ranks that hold no shard.
    """

    ranks: int
    bytes: int
    fullest_bytes: int
    imbalance: float
    bytes_sent: int
    estimated_step_ms: float
    idle_ranks: int


@dataclass(frozen=True)
class Place:
    """A table in one plan: its size, sharding and kernel, and the ranks that hold some of it."""

    rows: int
    dim: int
    dtype: str
    sharding: str
    kernel: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class TableChange:
    """A table that is sharded otherwise in the second plan.

    Attributes:
        name: Name of the table.
        before: The table in the first plan.
        after: The table in the second plan.
        moved_bytes: Bytes of weights and optimizer state that ranks need and did not have, in the second
            plan's size. Rows and columns that the first plan's table lacks are not counted.
    """

    name: str
    before: Place
    after: Place
    moved_bytes: int


@dataclass(frozen=True)
class PlanComparison:
    """The differences between two plans.

    Attributes:
        before: Totals of the first plan.
        after: Totals of the second plan.
        changes: Tables of both plans that are sharded otherwise, in the second plan's order.
        moved_bytes: Sum of the moved bytes of all changes.
        only_before: Names of tables that only the first plan has.
        only_after: Names of tables that only the second plan has.
    """

    before: Totals
    after: Totals
    changes: tuple[TableChange, ...]
    moved_bytes: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def compare_plans(before: Plan, after: Plan) -> PlanComparison:
    """Return what changes from one plan to another; world sizes may differ.

    Ranks are matched by number, tables by name.
    """
    olds = {table.name: table for table in before.tables}
    news = {table.name: table for table in after.tables}
    both = [(olds[name], new) for name, new in news.items() if name in olds]
    changes = tuple(
        TableChange(new.name, _place(old), _place(new), _moved(old, new))
        for old, new in both
        if _place(old) != _place(new) or _rectangles(old) != _rectangles(new)
    )
    return PlanComparison(
        before=_totals(before),
        after=_totals(after),
        changes=changes,
        moved_bytes=sum(change.moved_bytes for change in changes),
        only_before=tuple(name for name in olds if name not in news),
        only_after=tuple(name for name in news if name not in olds),
    )


def _totals(plan: Plan) -> Totals:
    return Totals(
        ranks=plan.world_size,
        bytes=sum(load.bytes for load in plan.ranks),
        fullest_bytes=max((load.bytes for load in plan.ranks), default=0),
        imbalance=plan.imbalance,
        bytes_sent=sum(load.bytes_sent for load in plan.ranks),
        estimated_step_ms=plan.estimated_step_ms,
        idle_ranks=len(plan.idle_ranks),
    )


def _place(table: Table) -> Place:
    ranks = tuple(sorted({shard.rank for shard in table.shards}))
    return Place(table.rows, table.dim, table.dtype, table.sharding, table.kernel, ranks)


def _rectangles(table: Table) -> set[tuple[int, ...]]:
    return {
        (shard.rank, shard.row_offset, shard.column_offset, shard.rows, shard.columns)
        for shard in table.shards
    }


def _moved(old: Table, new: Table) -> int:
    """Return the bytes of `new` on ranks that lacked them, by the share of each shard that is missing."""
    had: dict[int, list[Shard]] = defaultdict(list)
    for shard in old.shards:
        had[shard.rank].append(shard)
    moved = 0
    for shard in new.shards:
        needed = _overlap(shard, Shard(shard.rank, 0, 0, old.rows, old.dim, 0, 0))
        missing = needed - sum(_overlap(shard, other) for other in had[shard.rank])
        values = max(shard.rows * shard.columns, 1)
        moved += round(missing * (shard.weight_bytes + shard.optimizer_bytes) / values)
    return moved


def _overlap(one: Shard, other: Shard) -> int:
    """Return the number of values that two rectangles share."""
    first_row = max(one.row_offset, other.row_offset)
    first_column = max(one.column_offset, other.column_offset)
    rows = min(one.row_offset + one.rows, other.row_offset + other.rows) - first_row
    columns = min(one.column_offset + one.columns, other.column_offset + other.columns) - first_column
    return max(rows, 0) * max(columns, 0)


def comparison_text(comparison: PlanComparison, names: tuple[str, str] = ("before", "after")) -> str:
    """Return the totals of both plans and the changed tables, those with the most bytes to move first.

    Args:
        comparison: Comparison of two plans.
        names: Names of the two, such as their files.

    Returns:
        Lines of at most 80 characters, without a final line feed.
    """
    lines = []
    if names != ("before", "after"):
        lines = [*_wrapped(f"before: {names[0]}"), *_wrapped(f"after: {names[1]}"), ""]
    lines += [TOTALS.format("", "before", "after", "change")]
    lines += [*_total_rows(comparison.before, comparison.after), ""]
    if comparison.changes:
        most = sorted(comparison.changes, key=lambda change: -change.moved_bytes)
        lines.append(TABLES.format("table", "before", "after", "moved"))
        lines += [line for change in most[:SHOWN_TABLES] for line in _change(change)]
        if len(most) > SHOWN_TABLES:
            lines.append(f"and {format_count(len(most) - SHOWN_TABLES, 'more table')}")
        lines.append("")
    lines += _closing(comparison)
    return "\n".join(line.rstrip() for line in lines)


def _total_rows(before: Totals, after: Totals) -> Iterator[str]:
    def row(name: str, one: str, other: str, change: str) -> str:
        return TOTALS.format(name, one, other, "same" if one == other else change)

    def numbers(name: str, one: int, other: int) -> str:
        return row(name, f"{one:,}", f"{other:,}", f"{other - one:+,}")

    def sizes(name: str, one: int, other: int) -> str:
        change = _relative(one, other) if one else f"+{format_bytes(other)}"
        return row(name, format_bytes(one), format_bytes(other), change)

    yield numbers("ranks", before.ranks, after.ranks)
    yield numbers("idle ranks", before.idle_ranks, after.idle_ranks)
    yield sizes("bytes on all ranks", before.bytes, after.bytes)
    yield sizes("bytes on the fullest rank", before.fullest_bytes, after.fullest_bytes)
    shift = f"{after.imbalance - before.imbalance:+.2f}"
    yield row("fullest rank over the mean", f"{before.imbalance:.2f}", f"{after.imbalance:.2f}", shift)
    yield sizes("bytes sent in a step", before.bytes_sent, after.bytes_sent)
    one, other = before.estimated_step_ms, after.estimated_step_ms
    step = _relative(one, other) if one else f"+{format_milliseconds(other)}"
    yield row("step, estimated", format_milliseconds(one), format_milliseconds(other), step)


def _relative(before: float, after: float) -> str:
    """Return the change in percent up to twice as much, and a multiple beyond."""
    ratio = after / before
    return f"{ratio - 1:+.1%}" if ratio < 2 else f"x {ratio:,.3g}"


def _change(change: TableChange) -> Iterator[str]:
    """Yield the table's line, and further ones for long lists of ranks and a changed size, type or kernel."""
    before, after = _sharding_and_ranks(change.before), _sharding_and_ranks(change.after)
    for one, other in zip(_traits(change.before), _traits(change.after), strict=True):
        if one != other:
            depth = max(len(before), len(after))
            before = [*before, *[""] * (depth - len(before)), one]
            after = [*after, *[""] * (depth - len(after)), other]
    cells = zip_longest([_cut(change.name)], before, after, [format_bytes(change.moved_bytes)], fillvalue="")
    yield from (TABLES.format(*row) for row in cells)


def _sharding_and_ranks(place: Place) -> list[str]:
    """Return sharding and ranks in one line, or in two if it is too narrow."""
    named = f"{place.sharding} {format_ranks(place.ranks)}"
    if len(named) <= CELL:
        return [named]
    ranks = format_ranks(place.ranks, 4)
    return [place.sharding, ranks if len(ranks) <= CELL else format_ranks(place.ranks, 1)[:CELL]]


def _traits(place: Place) -> tuple[str, str, str]:
    return f"{place.rows:,} x {place.dim:,}"[:CELL], place.dtype, place.kernel


def _cut(name: str) -> str:
    """Return beginning and end of a long name, which tell such names apart."""
    return name if len(name) <= NAME else f"{name[:9]}...{name[-9:]}"


def _closing(comparison: PlanComparison) -> list[str]:
    summary = "Every table of both plans lies in the same place."
    if comparison.changes:
        changed, moved = format_count(len(comparison.changes), "table"), format_bytes(comparison.moved_bytes)
        summary = (
            f"{changed} changed; {moved} of weights and optimizer state would move to ranks that do not have "
            "them."
        )
    sentences = [summary]
    for plan, names in (("before", comparison.only_before), ("after", comparison.only_after)):
        left_out = f" and {len(names) - SHOWN_TABLES:,} more" if len(names) > SHOWN_TABLES else ""
        if names:
            sentences.append(f"Only {plan}: {', '.join(names[:SHOWN_TABLES])}{left_out}.")
    return [line for sentence in sentences for line in _wrapped(sentence)]


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
