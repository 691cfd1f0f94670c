"""What a picture of a plan shows: tables with a sign of their own, and bars of ranks or groups of ranks."""

from collections import defaultdict
from dataclasses import dataclass

from trainer.planning.plan import Plan, RankLoad, Table

MOST_SIGNS = 16
MOST_BARS = 64
ALIKE = 0.005
"""Share of the longest bar that ranks of one group may differ by: less than the eye sees."""


@dataclass(frozen=True)
class Sign:
    """A table, or several small ones, that the picture shows in one colour.

    Attributes:
        label: letter in its blocks; `+` for several tables.
        tables: one, or those gathered.
        bytes: of weights and optimizer state on all ranks.
        ranks: that hold some of it, ascending.
    """

    label: str
    tables: tuple[Table, ...]
    bytes: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Bar:
    """What one rank holds, or the average of several.

    Attributes:
        ranks: that it stands for, ascending.
        held: bytes of weights and optimizer state, by sign.
        bytes: with ids and vectors on their way.
        capacity: bytes that tables may take.
        over: whether `bytes` is beyond `capacity`.
        idle: whether these ranks hold no shard.
        others: whether it stands for all that have no bar of their own, however they differ.
    """

    ranks: tuple[int, ...]
    held: tuple[float, ...]
    bytes: float
    capacity: float
    over: bool
    idle: bool
    others: bool = False


def signs(plan: Plan) -> tuple[Sign, ...]:
    """The tables in the plan's order; of more than 16, those that take least of a rank are gathered."""
    held = [_by_rank(table) for table in plan.tables]
    by_size = sorted(range(len(held)), key=lambda number: (-max(held[number].values(), default=0), number))
    alone = by_size if len(by_size) <= MOST_SIGNS else by_size[: MOST_SIGNS - 1]
    groups = [("ABCDEFGHIJKLMNOP"[place], [number]) for place, number in enumerate(sorted(alone))]
    if len(alone) < len(by_size):
        groups.append(("+", sorted(by_size[len(alone) :])))
    return tuple(
        Sign(
            label,
            tuple(plan.tables[number] for number in numbers),
            sum(sum(held[number].values()) for number in numbers),
            tuple(sorted({rank for number in numbers for rank in held[number]})),
        )
        for label, numbers in groups
    )


def _by_rank(table: Table) -> dict[int, int]:
    """Bytes of weights and optimizer state."""
    held: dict[int, int] = defaultdict(int)
    for shard in table.shards:
        held[shard.rank] += shard.weight_bytes + shard.optimizer_bytes
    return held


def bars(plan: Plan, shown: tuple[Sign, ...]) -> tuple[Bar, ...]:
    """One bar a rank up to 64 ranks; beyond, one for all ranks that look alike, and 64 at most.

    Where more than 64 would be needed, the fullest keep theirs, idle ranks too, and the last bar is the
    average of all others.
    """
    held = [[0] * len(shown) for _ in plan.ranks]
    for place, sign in enumerate(shown):
        for table in sign.tables:
            for rank, size in _by_rank(table).items():
                held[rank][place] += size
    idle = set(plan.idle_ranks)
    loads = sorted(plan.ranks, key=lambda load: load.rank)
    single = [_bar(load, held[load.rank], load.rank in idle) for load in loads]
    if len(single) <= MOST_BARS:
        return tuple(single)
    grouped = _alike(single)
    if len(grouped) <= MOST_BARS:
        return tuple(grouped)
    fullest = sorted(grouped, key=lambda bar: (not bar.idle, not bar.over, -bar.bytes, bar.ranks))
    kept, rest = fullest[: MOST_BARS - 1], fullest[MOST_BARS - 1 :]
    return (*sorted(kept, key=lambda bar: bar.ranks), _average(rest, others=True))


def _bar(load: RankLoad, held: list[int], idle: bool) -> Bar:
    over = load.bytes > load.capacity_bytes
    return Bar((load.rank,), tuple(map(float, held)), load.bytes, load.capacity_bytes, over, idle)


def _alike(single: list[Bar]) -> list[Bar]:
    """Groups of ranks, in the order of their first."""
    step = max(ALIKE * max(bar.bytes for bar in single), 1)
    groups: dict[tuple, list[Bar]] = defaultdict(list)
    for bar in single:
        lengths = tuple((size > 0, round(size / step)) for size in (*bar.held, bar.bytes))
        groups[bar.idle, bar.over, bar.capacity, lengths].append(bar)
    return [_average(group) for group in groups.values()]


def _average(group: list[Bar], others: bool = False) -> Bar:
    count = sum(len(bar.ranks) for bar in group)

    def mean(values: list[float]) -> float:
        return sum(value * len(bar.ranks) for value, bar in zip(values, group, strict=True)) / count

    size, capacity = mean([bar.bytes for bar in group]), mean([bar.capacity for bar in group])
    return Bar(
        ranks=tuple(sorted(rank for bar in group for rank in bar.ranks)),
        held=tuple(mean(list(values)) for values in zip(*(bar.held for bar in group), strict=True)),
        bytes=size,
        capacity=capacity,
        over=size > capacity,
        idle=all(bar.idle for bar in group),
        others=others,
    )
