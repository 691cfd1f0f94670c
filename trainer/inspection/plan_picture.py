"""A picture of a sharding plan as SVG: a bar of memory for each rank, cut into the shards that it holds."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.formatting import format_bytes, format_count, format_milliseconds, format_ranks
from trainer.inspection.bars import Bar, Sign, bars, signs
from trainer.inspection.svg import (
    BOLD,
    END,
    FONTS,
    LARGE,
    MIDDLE,
    SMALL,
    TEXT,
    add,
    cut,
    line,
    rectangle,
    sign,
    text,
    width_of,
    wrapped,
)
from trainer.planning.plan import Plan

WIDTH, MARGIN = 720, 16
"""In pixels of 1/96 inch: 190 mm, the width of A4 within its margins."""
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
"""Okabe and Ito, Color Universal Design (2008): told apart with any colour vision."""
GATHERED, ON_THEIR_WAY, RED = "#AAAAAA", "#E0E0E0", "#A00000"
UP, DOWN, ACROSS, ALONG = "M-2 2 2-2M0 8 8 0M6 10 10 6", "M-2 6 2 10M0 0 8 8M6-2 10 2", "M0 4H8", "M4 0V8"
PATTERNS = ("", UP, ACROSS, DOWN, ALONG, UP + DOWN, "M2 2h2v2h-2zM6 6h2v2h-2z", ACROSS + ALONG)
FULL_ENOUGH = 0.2
"""Share of capacity below which bars are drawn to the scale of the fullest rank."""


@dataclass(frozen=True)
class _Layout:
    """Where bars lie; lengths in pixels.

    Attributes:
        columns: of bars, each `per_column` high.
        pitch, thickness: from bar to bar, and of one.
        label, length: widths of what stands before a bar, and of the longest bar.
        longest: bytes of a bar of `length`.
        to_capacity: whether capacity is on the scale.
        short: whether names of bars are.
    """

    columns: int
    per_column: int
    pitch: int
    thickness: int
    label: float
    length: float
    longest: float
    to_capacity: bool
    short: bool

    def pixels(self, size: float) -> float:
        return size / self.longest * self.length

    def left(self, column: int) -> float:
        return MARGIN + column * (WIDTH - MARGIN) / self.columns + self.label


def picture(plan: Plan) -> str:
    """The plan as a self-contained SVG that reads on screen and on A4, in colour and in grey.

    Up to 64 ranks have a bar each; of more, those that hold alike share one. The 16 largest tables have a
    colour, a pattern and a letter each.
    """
    shown = signs(plan)
    drawn = bars(plan, shown)
    layout = _layout(drawn)
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": FONTS})
    add(svg, "title", f"Sharding plan: {format_count(plan.world_size, 'rank')}, {plan.hardware}")
    _patterns(svg, shown)
    add(svg, "rect", width="100%", height="100%", fill="white")
    bottom = _heading(svg, plan, drawn, layout)
    bottom = _bars(svg, drawn, shown, layout, bottom)
    bottom = _legend(svg, plan, shown, bottom + 30)
    height = f"{bottom + MARGIN:.0f}"
    svg.attrib.update(width=str(WIDTH), height=height, viewBox=f"0 0 {WIDTH} {height}")
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _layout(drawn: tuple[Bar, ...]) -> _Layout:
    columns = 1 if len(drawn) <= 16 else 2
    short = columns > 1 and any(len(bar.ranks) > 1 for bar in drawn)
    fullest = max((bar.bytes / max(bar.capacity, 1) for bar in drawn), default=0)
    to_capacity = fullest >= FULL_ENOUGH
    sizes = [bar.bytes for bar in drawn] + [bar.capacity for bar in drawn if to_capacity]
    label = max((width_of(_name(bar, short), SMALL) for bar in drawn), default=0) + 8
    words = max((width_of(_words(bar), SMALL) for bar in drawn), default=0) + 8
    return _Layout(
        columns=columns,
        per_column=math.ceil(len(drawn) / columns),
        pitch=30 if len(drawn) <= 8 else 24 if columns == 1 else 18,
        thickness=20 if len(drawn) <= 8 else 16 if columns == 1 else 13,
        label=label,
        length=(WIDTH - MARGIN) / columns - MARGIN - label - words,
        longest=max([*sizes, 1]),
        to_capacity=to_capacity,
        short=short,
    )


def _heading(svg: ET.Element, plan: Plan, drawn: tuple[Bar, ...], layout: _Layout) -> float:
    bottom = MARGIN - 6
    for words in wrapped(
        f"Sharding plan: {format_count(plan.world_size, 'rank')}, {plan.hardware}", LARGE, WIDTH - 2 * MARGIN
    ):
        bottom += LARGE + 4
        text(svg, MARGIN, bottom, words, LARGE, **BOLD)
    for fact in [*_facts(plan), *_scale(drawn, layout, plan.world_size), *_warnings(plan)]:
        bottom += 3
        loud = {**BOLD, "fill": RED} if fact.startswith("OVER") else {}
        for words in wrapped(fact, TEXT, WIDTH - 2 * MARGIN):
            bottom += TEXT + 3
            text(svg, MARGIN, bottom, words, TEXT, **loud)
    return bottom


def _facts(plan: Plan) -> list[str]:
    held = sum(shard.weight_bytes + shard.optimizer_bytes for table in plan.tables for shard in table.shards)
    hosts = format_count(math.ceil(plan.world_size / max(plan.local_world_size, 1)), "host")
    step = format_milliseconds(plan.estimated_step_ms)
    return [
        f"{format_count(len(plan.tables), 'table')} on {hosts}, {format_bytes(held)} of weights and "
        f"optimizer state. Fullest rank: {plan.imbalance:.3g} x the mean.",
        f"Step: {step} (estimate of the slowest rank, tables alone).",
    ]


def _warnings(plan: Plan) -> list[str]:
    """Ranks that hold nothing, and ranks that hold too much."""
    found = []
    if plan.idle_ranks:
        verb = "hold" if len(plan.idle_ranks) > 1 else "holds"
        found.append(f"Idle: {_named(plan.idle_ranks, 3)} {verb} no table.")
    over = [load for load in plan.ranks if load.bytes > load.capacity_bytes]
    if over:
        most = max(load.bytes - load.capacity_bytes for load in over)
        named = _named([load.rank for load in over], 3)
        found.append(f"OVER CAPACITY: {named}, by up to {format_bytes(most)}.")
    return found


def _scale(drawn: tuple[Bar, ...], layout: _Layout, world_size: int) -> list[str]:
    """What a bar is."""
    facts = []
    if drawn and not layout.to_capacity:
        fullest = max(drawn, key=lambda bar: bar.bytes)
        facts.append(
            f"Bars are to the scale of the fullest rank, which takes {_share(fullest)} of its capacity of "
            f"{format_bytes(fullest.capacity)}."
        )
    if world_size > len(drawn):
        example = (
            " 7 +59: rank 7 and 59 more." if any("+" in _name(bar, layout.short) for bar in drawn) else ""
        )
        facts.append(f"Ranks that hold alike share a bar, as long as that of one of them.{example}")
    if drawn and drawn[-1].others:
        facts.append(
            f"The last bar is the average of {len(drawn[-1].ranks):,} ranks less full than those shown."
        )
    return facts


def _bars(
    svg: ET.Element, drawn: tuple[Bar, ...], shown: tuple[Sign, ...], layout: _Layout, top: float
) -> float:
    top += 46 if layout.to_capacity else 32
    for column in range(layout.columns):
        part = drawn[column * layout.per_column : (column + 1) * layout.per_column]
        if part:
            _axis(svg, part, layout, layout.left(column), top)
        for place, bar in enumerate(part):
            _bar(svg, bar, shown, layout, layout.left(column), top + place * layout.pitch)
    return top + layout.per_column * layout.pitch


def _axis(svg: ET.Element, part: tuple[Bar, ...], layout: _Layout, left: float, top: float) -> None:
    bottom = top + len(part) * layout.pitch
    mark = left + layout.pixels(max(bar.capacity for bar in part))
    for size in _ticks(layout.longest, layout.length / 60):
        x, words = left + layout.pixels(size), format_bytes(size)
        if not layout.to_capacity or abs(x - mark) > width_of(words, SMALL) / 2 + 3:
            line(svg, (x, top - 4), (x, bottom), stroke="#CCCCCC")
            text(svg, x, top - 8, words, SMALL, **MIDDLE)
    if layout.to_capacity:
        alike = len({bar.capacity for bar in part}) == 1
        words = f"capacity {format_bytes(part[0].capacity)}" if alike else "capacity"
        text(svg, max(mark - width_of(words, SMALL) / 2, left), top - 25, words, SMALL, **BOLD)
        line(svg, (mark, top - 21), (mark, top), **{"stroke-width": "2"})


def _bar(
    svg: ET.Element, bar: Bar, shown: tuple[Sign, ...], layout: _Layout, left: float, top: float
) -> None:
    group = add(svg, "g", **{"class": "bar", "data-ranks": format_ranks(bar.ranks, 10**9)})
    gap = (layout.pitch - layout.thickness) / 2
    y, middle = top + gap, top + layout.pitch / 2 + 4
    text(group, left - 6, middle, _name(bar, layout.short), SMALL, **END)
    x = left
    for place, (table, size) in enumerate(zip(shown, bar.held, strict=True)):
        if size:
            width = layout.pixels(size)
            block = rectangle(
                group, x, y, width, layout.thickness, f"url(#table-{place})", **{"class": "block"}
            )
            block.set("data-bytes", f"{size:.0f}")
            add(block, "title", f"{_sign_name(table)}: {format_bytes(size)} on {_name(bar)}")
            if width >= 14:
                sign(group, x + width / 2, y + layout.thickness / 2, table.label)
            x += width
    moving = layout.pixels(max(bar.bytes - sum(bar.held), 0))
    if moving:
        block = rectangle(group, x, y, moving, layout.thickness, ON_THEIR_WAY, **{"class": "moving"})
        add(block, "title", f"ids and vectors on their way: {format_bytes(bar.bytes - sum(bar.held))}")
    _marks(group, bar, layout, (left, x + moving), top)
    loud = {**BOLD, "fill": RED} if bar.over else {}
    text(group, left + layout.length + 8, middle, _words(bar), SMALL, **loud)


def _marks(group: ET.Element, bar: Bar, layout: _Layout, ends: tuple[float, float], top: float) -> None:
    """Where capacity ends, what is free of it, and a frame around what is beyond it."""
    y = top + (layout.pitch - layout.thickness) / 2
    left, right = ends
    if layout.to_capacity:
        end = left + layout.pixels(bar.capacity)
        if not bar.over:
            free = {"class": "free", "stroke": "#888888"}
            rectangle(group, right, y, max(end - right, 0), layout.thickness, "none", **free)
        line(group, (end, top), (end, top + layout.pitch), **{"stroke-width": "2", "class": "capacity"})
    if bar.over:
        frame = {"stroke": RED, "stroke-width": "2.5", "class": "over"}
        rectangle(group, left, y, right - left, layout.thickness, "none", **frame)


def _legend(svg: ET.Element, plan: Plan, shown: tuple[Sign, ...], top: float) -> float:
    heads = ("table", "rows x dim", "sharding", "kernel", "bytes in all", "ranks")
    moving = sum(load.bytes for load in plan.ranks) - sum(table.bytes for table in shown)
    rows = [heads, *(_legend_row(table) for table in shown)]
    widths = [max(width_of(row[column], SMALL) for row in rows) + 14 for column in range(len(heads))]
    widths[0] = WIDTH - 2 * MARGIN - 34 - sum(widths[1:])
    for number, row in enumerate(rows):
        y, x = top + 17 * number, MARGIN + 34.0
        for column, (words, width) in enumerate(zip(row, widths, strict=True)):
            weight = {} if number else BOLD
            if column == 4:
                text(svg, x + width - 14, y + 4, words, SMALL, **weight, **END)
            else:
                text(svg, x, y + 4, cut(words, SMALL, width - 10), SMALL, **weight)
            x += width
        if number:
            rectangle(svg, MARGIN, y - 7, 26, 13, f"url(#table-{number - 1})")
            sign(svg, MARGIN + 13, y, shown[number - 1].label)
    y = top + 17 * len(rows)
    rectangle(svg, MARGIN, y - 7, 26, 13, ON_THEIR_WAY)
    words = f"ids and vectors on their way, {format_bytes(max(moving, 0))} in all"
    text(svg, MARGIN + 34, y + 4, words, SMALL)
    return y + 7


def _legend_row(shown: Sign) -> tuple[str, ...]:
    def one(values: Iterable[str]) -> str:
        different = set(values)
        return different.pop() if len(different) == 1 else "several"

    first = shown.tables[0]
    return (
        _sign_name(shown),
        f"{first.rows:,} x {first.dim:,}" if len(shown.tables) == 1 else "",
        one(table.sharding for table in shown.tables),
        one(table.kernel for table in shown.tables),
        format_bytes(shown.bytes),
        format_ranks(shown.ranks, 1),
    )


def _patterns(svg: ET.Element, shown: tuple[Sign, ...]) -> None:
    definitions = add(svg, "defs")
    for place, table in enumerate(shown):
        tile = add(
            definitions, "pattern", id=f"table-{place}", width="8", height="8", patternUnits="userSpaceOnUse"
        )
        gathered = table.label == "+"
        colour = GATHERED if gathered else COLOURS[place % len(COLOURS)]
        add(tile, "rect", width="8", height="8", fill=colour)
        path = "" if gathered else PATTERNS[place % len(PATTERNS)]
        if path:
            add(tile, "path", d=path, fill="none", stroke="black", opacity="0.5")


def _name(bar: Bar, short: bool = False) -> str:
    """What stands in front of a bar."""
    if bar.others:
        return f"{len(bar.ranks):,} others"
    return (
        format_ranks(bar.ranks, 1).replace(" and ", " +").removesuffix(" more")
        if short
        else _named(bar.ranks, 1)
    )


def _words(bar: Bar) -> str:
    """What stands behind a bar."""
    start = "OVER: " if bar.over else "idle, " if bar.idle else "mean " if bar.others else ""
    return f"{start}{format_bytes(bar.bytes)}, {_share(bar)}"


def _share(bar: Bar) -> str:
    if not bar.capacity:
        return "no capacity"
    percent = 100 * bar.bytes / bar.capacity
    if 0 < percent < 0.01:
        return "<0.01%"
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%"


def _sign_name(shown: Sign) -> str:
    return shown.tables[0].name if len(shown.tables) == 1 else f"{len(shown.tables):,} smaller tables"


def _named(ranks: Sequence[int], most: int) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {format_ranks(ranks, most)}"


def _ticks(longest: float, most: float) -> list[float]:
    """Round numbers from 0 to `longest`, at most so many beside 0."""
    step = 10.0 ** math.floor(math.log10(longest / most))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if step * factor * most >= longest)
    step = max(step, 1)
    return [step * number for number in range(math.floor(longest / step * (1 + 1e-9)) + 1)]
