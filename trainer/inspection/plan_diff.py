"""What another plan changes: totals, where tables lie, and bytes to be moved to get there."""

import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from trainer.formatting import bytes_in_words, counted, milliseconds_in_words, ranks_in_words
from trainer.planning.plan import Plan, Shard, Table

WIDTH = 80
MOST_TABLES = 20
TOTALS = "{:<30} {:>17} {:>17} {:>13}"
TABLES = "{:<21} {:<24} {:<24} {:>8}"
NAME, CELL = 21, 24
"""Widths of the first columns of `TABLES`."""


@dataclass(frozen=True)
class Totals:
    """A plan in a few numbers.

    Attributes:
        ranks: in all.
        bytes, fullest_bytes: on all ranks, and on the one that holds most.
        imbalance: fullest over mean.
        bytes_sent: by all ranks to others in a step.
        estimated_step_ms: the planner's estimate.
        idle_ranks: how many hold no shard.
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
    """How a table lies in one plan: its size, sharding and kernel, and the ranks that hold some of it."""

    rows: int
    dim: int
    dtype: str
    sharding: str
    kernel: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """A table that lies otherwise in the second plan.

    Attributes:
        name: of the table.
        before, after: how it lies.
        moved_bytes: of weights and optimizer state that a rank needs and did not have, as large as they are
            in the second plan. Rows and columns that the first plan's table lacks are not moved.
    """

    name: str
    before: Place
    after: Place
    moved_bytes: int


@dataclass(frozen=True)
class PlanComparison:
    """Two plans side by side.

    Attributes:
        before, after: their totals.
        changes: tables of both plans that lie otherwise, in the second plan's order.
        moved_bytes: of all of them.
        only_before, only_after: names of tables that the other plan lacks.
    """

    before: Totals
    after: Totals
    changes: tuple[Change, ...]
    moved_bytes: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def compare_plans(before: Plan, after: Plan) -> PlanComparison:
    """What changes from one plan to another; world sizes may differ.

    A rank is the same rank in both plans. Tables are matched by name.
    """
    olds = {table.name: table for table in before.tables}
    news = {table.name: table for table in after.tables}
    both = [(olds[name], new) for name, new in news.items() if name in olds]
    changes = tuple(
        Change(new.name, _place(old), _place(new), _moved(old, new))
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
    """Bytes of `new` on ranks that did not have them, by the share of each shard that is missing."""
    had: dict[int, list[Shard]] = defaultdict(list)
    for shard in old.shards:
        had[shard.rank].append(shard)
    moved = 0
    for shard in new.shards:
        wanted = _overlap(shard, Shard(shard.rank, 0, 0, old.rows, old.dim, 0, 0))
        missing = wanted - sum(_overlap(shard, other) for other in had[shard.rank])
        values = max(shard.rows * shard.columns, 1)
        moved += round(missing * (shard.weight_bytes + shard.optimizer_bytes) / values)
    return moved


def _overlap(one: Shard, other: Shard) -> int:
    """Values that two rectangles share."""
    first_row = max(one.row_offset, other.row_offset)
    first_column = max(one.column_offset, other.column_offset)
    rows = min(one.row_offset + one.rows, other.row_offset + other.rows) - first_row
    columns = min(one.column_offset + one.columns, other.column_offset + other.columns) - first_column
    return max(rows, 0) * max(columns, 0)


def comparison_text(comparison: PlanComparison, names: tuple[str, str] = ("before", "after")) -> str:
    """The totals of both plans, and the tables that change, those with most bytes to be moved first.

    Args:
        comparison: of two plans.
        names: of the two, as a file or an option says.
    Returns: lines of at most 80 characters, without a final line feed.
    """
    lines = []
    if names != ("before", "after"):
        lines = [*_wrapped(f"before: {names[0]}"), *_wrapped(f"after: {names[1]}"), ""]
    lines += [TOTALS.format("", "before", "after", "change")]
    lines += [*_total_rows(comparison.before, comparison.after), ""]
    if comparison.changes:
        most = sorted(comparison.changes, key=lambda change: -change.moved_bytes)
        lines.append(TABLES.format("table", "before", "after", "moved"))
        lines += [line for change in most[:MOST_TABLES] for line in _change(change)]
        if len(most) > MOST_TABLES:
            lines.append(f"and {counted(len(most) - MOST_TABLES, 'more table')}")
        lines.append("")
    lines += _closing(comparison)
    return "\n".join(line.rstrip() for line in lines)


def _total_rows(before: Totals, after: Totals) -> Iterator[str]:
    def row(name: str, one: str, other: str, change: str) -> str:
        return TOTALS.format(name, one, other, "same" if one == other else change)

    def numbers(name: str, one: int, other: int) -> str:
        return row(name, f"{one:,}", f"{other:,}", f"{other - one:+,}")

    def sizes(name: str, one: int, other: int) -> str:
        change = _relative(one, other) if one else f"+{bytes_in_words(other)}"
        return row(name, bytes_in_words(one), bytes_in_words(other), change)

    yield numbers("ranks", before.ranks, after.ranks)
    yield numbers("idle ranks", before.idle_ranks, after.idle_ranks)
    yield sizes("bytes on all ranks", before.bytes, after.bytes)
    yield sizes("bytes on the fullest rank", before.fullest_bytes, after.fullest_bytes)
    shift = f"{after.imbalance - before.imbalance:+.2f}"
    yield row("fullest rank over the mean", f"{before.imbalance:.2f}", f"{after.imbalance:.2f}", shift)
    yield sizes("bytes sent in a step", before.bytes_sent, after.bytes_sent)
    one, other = before.estimated_step_ms, after.estimated_step_ms
    step = _relative(one, other) if one else f"+{milliseconds_in_words(other)}"
    yield row("step, estimated", milliseconds_in_words(one), milliseconds_in_words(other), step)


def _relative(before: float, after: float) -> str:
    """Percent up to twice as much, then a multiple."""
    ratio = after / before
    return f"{ratio - 1:+.1%}" if ratio < 2 else f"x {ratio:,.3g}"


def _change(change: Change) -> Iterator[str]:
    """The table's line, and others for what does not fit and for a size, type or kernel that changes."""
    before, after = _whereabouts(change.before), _whereabouts(change.after)
    for one, other in zip(_traits(change.before), _traits(change.after), strict=True):
        if one != other:
            depth = max(len(before), len(after))
            before = [*before, *[""] * (depth - len(before)), one]
            after = [*after, *[""] * (depth - len(after)), other]
    cells = zip_longest(
        [_cut(change.name)], before, after, [bytes_in_words(change.moved_bytes)], fillvalue=""
    )
    yield from (TABLES.format(*row) for row in cells)


def _whereabouts(place: Place) -> list[str]:
    """Sharding and ranks, in two lines where one is too narrow."""
    named = f"{place.sharding} {ranks_in_words(place.ranks)}"
    if len(named) <= CELL:
        return [named]
    ranks = ranks_in_words(place.ranks, 4)
    return [place.sharding, ranks if len(ranks) <= CELL else ranks_in_words(place.ranks, 1)[:CELL]]


def _traits(place: Place) -> tuple[str, str, str]:
    return f"{place.rows:,} x {place.dim:,}"[:CELL], place.dtype, place.kernel


def _cut(name: str) -> str:
    """Beginning and end, which tell long names apart."""
    return name if len(name) <= NAME else f"{name[:9]}...{name[-9:]}"


def _closing(comparison: PlanComparison) -> list[str]:
    said = "Every table of both plans lies in the same place."
    if comparison.changes:
        changed, moved = counted(len(comparison.changes), "table"), bytes_in_words(comparison.moved_bytes)
        said = (
            f"{changed} changed; {moved} of weights and optimizer state would move to ranks that do not have "
            "them."
        )
    sentences = [said]
    for plan, names in (("before", comparison.only_before), ("after", comparison.only_after)):
        left_out = f" and {len(names) - MOST_TABLES:,} more" if len(names) > MOST_TABLES else ""
        if names:
            sentences.append(f"Only {plan}: {', '.join(names[:MOST_TABLES])}{left_out}.")
    return [line for sentence in sentences for line in _wrapped(sentence)]


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
