"""The bars of a plan's picture: their places, scale, blocks and marks of capacity."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.formatting import format_bytes, format_ranks
from trainer.inspection.bars import Bar, Series
from trainer.inspection.svg import BOLD, END, MIDDLE, SMALL, add, line, rectangle, sign, text, width_of

WIDTH, MARGIN = 720, 16
"""In pixels of 1/96 inch: 190 mm, the width of A4 within its margins."""
IN_TRANSIT, RED = "#E0E0E0", "#A00000"
MIN_SHARE = 0.2
"""Share of capacity below which bars are drawn to the scale of the fullest rank."""


@dataclass(frozen=True)
class Layout:
    """Places of the bars; lengths in pixels.

    Attributes:
        columns: Columns of bars.
        per_column: Bars per column.
        pitch: Distance from bar to bar.
        thickness: Height of a bar.
        label: Width of the name in front of a bar.
        length: Length of the longest bar.
        longest: Bytes of the longest bar.
        to_capacity: Whether the scale goes up to capacity.
        short: Whether names of bars are short.
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
        """Return the length of a number of bytes."""
        return size / self.longest * self.length

    def left(self, column: int) -> float:
        """Return where the bars of a column begin."""
        return MARGIN + column * (WIDTH - MARGIN) / self.columns + self.label


def layout_of(bars: Sequence[Bar]) -> Layout:
    """Return where to draw the bars, by their number and the widths of their texts."""
    columns = 1 if len(bars) <= 16 else 2
    short = columns > 1 and any(len(bar.ranks) > 1 for bar in bars)
    fullest = max((bar.bytes / max(bar.capacity, 1) for bar in bars), default=0)
    to_capacity = fullest >= MIN_SHARE
    sizes = [bar.bytes for bar in bars] + [bar.capacity for bar in bars if to_capacity]
    label = max((width_of(bar_name(bar, short), SMALL) for bar in bars), default=0) + 8
    figures = max((width_of(_figures(bar), SMALL) for bar in bars), default=0) + 8
    return Layout(
        columns=columns,
        per_column=math.ceil(len(bars) / columns),
        pitch=30 if len(bars) <= 8 else 24 if columns == 1 else 18,
        thickness=20 if len(bars) <= 8 else 16 if columns == 1 else 13,
        label=label,
        length=(WIDTH - MARGIN) / columns - MARGIN - label - figures,
        longest=max([*sizes, 1]),
        to_capacity=to_capacity,
        short=short,
    )


def draw_bars(
    svg: ET.Element, bars: Sequence[Bar], series: Sequence[Series], layout: Layout, top: float
) -> float:
    """Draw all bars with their axes below `top`, and return where they end."""
    top += 46 if layout.to_capacity else 32
    for column in range(layout.columns):
        shown = bars[column * layout.per_column : (column + 1) * layout.per_column]
        if shown:
            _draw_axis(svg, shown, layout, layout.left(column), top)
        for place, bar in enumerate(shown):
            _draw_bar(svg, bar, series, layout, layout.left(column), top + place * layout.pitch)
    return top + layout.per_column * layout.pitch


def bar_name(bar: Bar, short: bool = False) -> str:
    """Return the name in front of a bar."""
    if bar.others:
        return f"{len(bar.ranks):,} others"
    if short:
        return format_ranks(bar.ranks, 1).replace(" and ", " +").removesuffix(" more")
    return name_ranks(bar.ranks, 1)


def name_ranks(ranks: Sequence[int], most: int) -> str:
    """Return `rank 1`, or `ranks 1-3` with at most `most` ranges."""
    return f"rank{'s' if len(ranks) > 1 else ''} {format_ranks(ranks, most)}"


def share_of_capacity(bar: Bar) -> str:
    """Return what a bar takes of its capacity, in percent."""
    if not bar.capacity:
        return "no capacity"
    percent = 100 * bar.bytes / bar.capacity
    if 0 < percent < 0.01:
        return "<0.01%"
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%"


def _draw_axis(svg: ET.Element, bars: Sequence[Bar], layout: Layout, left: float, top: float) -> None:
    bottom = top + len(bars) * layout.pitch
    mark = left + layout.pixels(max(bar.capacity for bar in bars))
    for size in _ticks(layout.longest, layout.length / 60):
        x, label = left + layout.pixels(size), format_bytes(size)
        if not layout.to_capacity or abs(x - mark) > width_of(label, SMALL) / 2 + 3:
            line(svg, (x, top - 4), (x, bottom), stroke="#CCCCCC")
            text(svg, x, top - 8, label, SMALL, **MIDDLE)
    if layout.to_capacity:
        alike = len({bar.capacity for bar in bars}) == 1
        label = f"capacity {format_bytes(bars[0].capacity)}" if alike else "capacity"
        text(svg, max(mark - width_of(label, SMALL) / 2, left), top - 25, label, SMALL, **BOLD)
        line(svg, (mark, top - 21), (mark, top), **{"stroke-width": "2"})


def _draw_bar(
    svg: ET.Element, bar: Bar, series: Sequence[Series], layout: Layout, left: float, top: float
) -> None:
    group = add(svg, "g", **{"class": "bar", "data-ranks": format_ranks(bar.ranks, 10**9)})
    y = top + (layout.pitch - layout.thickness) / 2
    baseline = top + layout.pitch / 2 + 4
    text(group, left - 6, baseline, bar_name(bar, layout.short), SMALL, **END)
    x = left
    for place, (each, size) in enumerate(zip(series, bar.bytes_by_series, strict=True)):
        if size:
            width = layout.pixels(size)
            fill = f"url(#table-{place})"
            block = rectangle(group, x, y, width, layout.thickness, fill, **{"class": "block"})
            block.set("data-bytes", f"{size:.0f}")
            add(block, "title", f"{each.name}: {format_bytes(size)} on {bar_name(bar)}")
            if width >= 14:
                sign(group, x + width / 2, y + layout.thickness / 2, each.label)
            x += width
    moving = layout.pixels(max(bar.bytes_in_transit, 0))
    if moving:
        block = rectangle(group, x, y, moving, layout.thickness, IN_TRANSIT, **{"class": "moving"})
        add(block, "title", f"ids and vectors on their way: {format_bytes(bar.bytes_in_transit)}")
    _draw_capacity(group, bar, layout, (left, x + moving), top)
    emphasis = {**BOLD, "fill": RED} if bar.over else {}
    text(group, left + layout.length + 8, baseline, _figures(bar), SMALL, **emphasis)


def _draw_capacity(
    group: ET.Element, bar: Bar, layout: Layout, ends: tuple[float, float], top: float
) -> None:
    """Mark where capacity ends, what is free, and a bar that is longer."""
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


def _figures(bar: Bar) -> str:
    """Return the figures behind a bar."""
    start = "OVER: " if bar.over else "idle, " if bar.idle else "mean " if bar.others else ""
    return f"{start}{format_bytes(bar.bytes)}, {share_of_capacity(bar)}"


def _ticks(longest: float, most: float) -> list[float]:
    """Return round numbers from 0 to `longest`, at most `most` beside 0."""
    step = 10.0 ** math.floor(math.log10(longest / most))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if step * factor * most >= longest)
    step = max(step, 1)
    return [step * number for number in range(math.floor(longest / step * (1 + 1e-9)) + 1)]
