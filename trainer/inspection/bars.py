"""Data of a plan's picture: series of tables, and bars of ranks or of groups of ranks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.planning.plan import Plan, RankLoad, Table

MAX_SERIES = 16
MAX_BARS = 64
TOLERANCE = 0.005
"""Share of the longest bar by which the ranks of one group may differ: less than the eye sees."""


@dataclass(frozen=True)
class Series:
    """A table, or several small ones, drawn in one colour and pattern.

    Attributes:
        label: Letter in its blocks; `+` for several tables.
        tables: The table, or the tables.
        bytes: Bytes of weights and optimizer state on all ranks.
        ranks: Ranks that hold some of it, ascending.
    """

    label: str
    tables: tuple[Table, ...]
    bytes: int
    ranks: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the table, or the number of tables."""
        return self.tables[0].name if len(self.tables) == 1 else f"{len(self.tables):,} smaller tables"


@dataclass(frozen=True)
class Bar:
    """What one rank holds, or the mean of several ranks.

    Attributes:
        ranks: Ranks that it stands for, ascending.
        bytes_by_series: Bytes of weights and optimizer state, by series.
        bytes: Bytes of all of them, and of ids and vectors in transit.
        capacity: Bytes that tables may take.
        over: Whether `bytes` is more than `capacity`.
        idle: Whether these ranks hold no shard.
        others: Whether it stands for all ranks without a bar of their own, however they differ.
    """

    ranks: tuple[int, ...]
    bytes_by_series: tuple[float, ...]
    bytes: float
    capacity: float
    over: bool
    idle: bool
    others: bool = False

    @property
    def bytes_in_transit(self) -> float:
        """Bytes of ids and vectors in transit."""
        return self.bytes - sum(self.bytes_by_series)


def series_of(plan: Plan) -> tuple[Series, ...]:
    """Return a series per table in the plan's order; of more than 16, the smallest ones share the last."""
    by_rank = [_bytes_by_rank(table) for table in plan.tables]
    by_size = sorted(
        range(len(by_rank)), key=lambda number: (-max(by_rank[number].values(), default=0), number)
    )
    alone = by_size if len(by_size) <= MAX_SERIES else by_size[: MAX_SERIES - 1]
    groups = [("ABCDEFGHIJKLMNOP"[place], [number]) for place, number in enumerate(sorted(alone))]
    if len(alone) < len(by_size):
        groups.append(("+", sorted(by_size[len(alone) :])))
    return tuple(
        Series(
            label,
            tuple(plan.tables[number] for number in numbers),
            sum(sum(by_rank[number].values()) for number in numbers),
            tuple(sorted({rank for number in numbers for rank in by_rank[number]})),
        )
        for label, numbers in groups
    )


def _bytes_by_rank(table: Table) -> dict[int, int]:
    """Return the bytes of weights and optimizer state on each rank that holds some."""
    held: dict[int, int] = defaultdict(int)
    for shard in table.shards:
        held[shard.rank] += shard.weight_bytes + shard.optimizer_bytes
    return held


def bars_of(plan: Plan, series: Sequence[Series]) -> tuple[Bar, ...]:
    """Return a bar per rank; of more than 64 ranks a bar per group that looks the same.

    If even that takes more than 64 bars, the fullest and the idle ranks keep theirs, and the last bar is the
    mean of all others.
    """
    held = [[0] * len(series) for _ in plan.ranks]
    for place, each in enumerate(series):
        for table in each.tables:
            for rank, size in _bytes_by_rank(table).items():
                held[rank][place] += size
    idle = set(plan.idle_ranks)
    loads = sorted(plan.ranks, key=lambda load: load.rank)
    single = [_bar(load, held[load.rank], load.rank in idle) for load in loads]
    if len(single) <= MAX_BARS:
        return tuple(single)
    grouped = _grouped(single)
    if len(grouped) <= MAX_BARS:
        return tuple(grouped)
    fullest = sorted(grouped, key=lambda bar: (not bar.idle, not bar.over, -bar.bytes, bar.ranks))
    shown, rest = fullest[: MAX_BARS - 1], fullest[MAX_BARS - 1 :]
    return (*sorted(shown, key=lambda bar: bar.ranks), _mean(rest, others=True))


def _bar(load: RankLoad, held: list[int], idle: bool) -> Bar:
    over = load.bytes > load.capacity_bytes
    return Bar((load.rank,), tuple(map(float, held)), load.bytes, load.capacity_bytes, over, idle)


def _grouped(single: list[Bar]) -> list[Bar]:
    """Return a bar per group of ranks that look the same, in the order of their first ranks."""
    step = max(TOLERANCE * max(bar.bytes for bar in single), 1)
    groups: dict[tuple, list[Bar]] = defaultdict(list)
    for bar in single:
        lengths = tuple((size > 0, round(size / step)) for size in (*bar.bytes_by_series, bar.bytes))
        groups[bar.idle, bar.over, bar.capacity, lengths].append(bar)
    return [_mean(group) for group in groups.values()]


def _mean(group: list[Bar], others: bool = False) -> Bar:
    count = sum(len(bar.ranks) for bar in group)

    def mean(values: list[float]) -> float:
        return sum(value * len(bar.ranks) for value, bar in zip(values, group, strict=True)) / count

    size, capacity = mean([bar.bytes for bar in group]), mean([bar.capacity for bar in group])
    return Bar(
        ranks=tuple(sorted(rank for bar in group for rank in bar.ranks)),
        bytes_by_series=tuple(
            mean(list(values)) for values in zip(*(bar.bytes_by_series for bar in group), strict=True)
        ),
        bytes=size,
        capacity=capacity,
        over=size > capacity,
        idle=all(bar.idle for bar in group),
        others=others,
    )
