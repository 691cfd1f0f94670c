"""A sharding plan as SVG: a bar of memory for each rank, cut into its shards, with heading and legend."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from trainer.formatting import format_bytes, format_count, format_milliseconds, format_ranks
from trainer.inspection.bar_chart import (
    IN_TRANSIT,
    MARGIN,
    RED,
    WIDTH,
    Layout,
    bar_name,
    draw_bars,
    layout_of,
    name_ranks,
    share_of_capacity,
)
from trainer.inspection.bars import Bar, Series, bars_of, series_of
from trainer.inspection.svg import (
    BOLD,
    END,
    FONTS,
    LARGE,
    SMALL,
    TEXT,
    add,
    cut,
    rectangle,
    sign,
    text,
    width_of,
    wrapped,
)
from trainer.planning.plan import Plan

COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
"""Okabe and Ito, Color Universal Design (2008): told apart with any colour vision."""
SMALLER_TABLES = "#AAAAAA"
UP, DOWN, ACROSS, ALONG = "M-2 2 2-2M0 8 8 0M6 10 10 6", "M-2 6 2 10M0 0 8 8M6-2 10 2", "M0 4H8", "M4 0V8"
PATTERNS = ("", UP, ACROSS, DOWN, ALONG, UP + DOWN, "M2 2h2v2h-2zM6 6h2v2h-2z", ACROSS + ALONG)


def picture(plan: Plan) -> str:
    """Return the plan as a self-contained SVG that reads on screen and on A4, in colour and in grey.

    Up to 64 ranks have a bar each; of more, ranks that hold the same share one. The 16 largest tables have a
    colour, a pattern and a letter each.
    """
    series = series_of(plan)
    bars = bars_of(plan, series)
    layout = layout_of(bars)
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": FONTS})
    add(svg, "title", _title(plan))
    _define_patterns(svg, series)
    add(svg, "rect", width="100%", height="100%", fill="white")
    bottom = _draw_heading(svg, plan, bars, layout)
    bottom = draw_bars(svg, bars, series, layout, bottom)
    bottom = _draw_legend(svg, plan, series, bottom + 30)
    height = f"{bottom + MARGIN:.0f}"
    svg.attrib.update(width=str(WIDTH), height=height, viewBox=f"0 0 {WIDTH} {height}")
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _title(plan: Plan) -> str:
    return f"Sharding plan: {format_count(plan.world_size, 'rank')}, {plan.hardware}"


def _draw_heading(svg: ET.Element, plan: Plan, bars: Sequence[Bar], layout: Layout) -> float:
    """Draw title, facts and warnings, and return where they end."""
    bottom = MARGIN - 6
    for row in wrapped(_title(plan), LARGE, WIDTH - 2 * MARGIN):
        bottom += LARGE + 4
        text(svg, MARGIN, bottom, row, LARGE, **BOLD)
    for fact in [*_facts(plan), *_scale(bars, layout, plan.world_size), *_warnings(plan)]:
        bottom += 3
        emphasis = {**BOLD, "fill": RED} if fact.startswith("OVER") else {}
        for row in wrapped(fact, TEXT, WIDTH - 2 * MARGIN):
            bottom += TEXT + 3
            text(svg, MARGIN, bottom, row, TEXT, **emphasis)
    return bottom


def _facts(plan: Plan) -> list[str]:
    held = sum(shard.weight_bytes + shard.optimizer_bytes for table in plan.tables for shard in table.shards)
    tables = format_count(len(plan.tables), "table")
    hosts = format_count(math.ceil(plan.world_size / max(plan.local_world_size, 1)), "host")
    step = format_milliseconds(plan.estimated_step_ms)
    return [
        f"{tables} on {hosts}, {format_bytes(held)} of weights and optimizer state. "
        f"Fullest rank: {plan.imbalance:.3g} x the mean.",
        f"Step: {step} (estimate of the slowest rank, tables alone).",
    ]


def _scale(bars: Sequence[Bar], layout: Layout, world_size: int) -> list[str]:
    """Return what a bar means."""
    facts = []
    if bars and not layout.to_capacity:
        fullest = max(bars, key=lambda bar: bar.bytes)
        facts.append(
            f"Bars are to the scale of the fullest rank, which takes {share_of_capacity(fullest)} of its "
            f"capacity of {format_bytes(fullest.capacity)}."
        )
    if world_size > len(bars):
        shortened = any("+" in bar_name(bar, layout.short) for bar in bars)
        example = " 7 +59: rank 7 and 59 more." if shortened else ""
        facts.append(f"Ranks that hold alike share a bar, as long as that of one of them.{example}")
    if bars and bars[-1].others:
        facts.append(
            f"The last bar is the average of {len(bars[-1].ranks):,} ranks less full than those shown."
        )
    return facts


def _warnings(plan: Plan) -> list[str]:
    """Return which ranks are idle, and which hold too much."""
    found = []
    if plan.idle_ranks:
        verb = "hold" if len(plan.idle_ranks) > 1 else "holds"
        found.append(f"Idle: {name_ranks(plan.idle_ranks, 3)} {verb} no table.")
    over = [load for load in plan.ranks if load.bytes > load.capacity_bytes]
    if over:
        most = max(load.bytes - load.capacity_bytes for load in over)
        named = name_ranks([load.rank for load in over], 3)
        found.append(f"OVER CAPACITY: {named}, by up to {format_bytes(most)}.")
    return found


def _draw_legend(svg: ET.Element, plan: Plan, series: Sequence[Series], top: float) -> float:
    """Draw a row per series and one for bytes in transit, and return where they end."""
    heads = ("table", "rows x dim", "sharding", "kernel", "bytes in all", "ranks")
    in_transit = sum(load.bytes for load in plan.ranks) - sum(each.bytes for each in series)
    rows = [heads, *(_legend_row(each) for each in series)]
    widths = [max(width_of(row[column], SMALL) for row in rows) + 14 for column in range(len(heads))]
    widths[0] = WIDTH - 2 * MARGIN - 34 - sum(widths[1:])
    for number, row in enumerate(rows):
        y, x = top + 17 * number, MARGIN + 34.0
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            weight = {} if number else BOLD
            if column == 4:
                text(svg, x + width - 14, y + 4, cell, SMALL, **weight, **END)
            else:
                text(svg, x, y + 4, cut(cell, SMALL, width - 10), SMALL, **weight)
            x += width
        if number:
            rectangle(svg, MARGIN, y - 7, 26, 13, f"url(#table-{number - 1})")
            sign(svg, MARGIN + 13, y, series[number - 1].label)
    y = top + 17 * len(rows)
    rectangle(svg, MARGIN, y - 7, 26, 13, IN_TRANSIT)
    note = f"ids and vectors on their way, {format_bytes(max(in_transit, 0))} in all"
    text(svg, MARGIN + 34, y + 4, note, SMALL)
    return y + 7


def _legend_row(series: Series) -> tuple[str, ...]:
    def one(values: Iterable[str]) -> str:
        different = set(values)
        return different.pop() if len(different) == 1 else "several"

    first = series.tables[0]
    return (
        series.name,
        f"{first.rows:,} x {first.dim:,}" if len(series.tables) == 1 else "",
        one(table.sharding for table in series.tables),
        one(table.kernel for table in series.tables),
        format_bytes(series.bytes),
        format_ranks(series.ranks, 1),
    )


def _define_patterns(svg: ET.Element, series: Sequence[Series]) -> None:
    """Define a colour and a pattern for each series."""
    definitions = add(svg, "defs")
    for place, each in enumerate(series):
        tile = add(
            definitions, "pattern", id=f"table-{place}", width="8", height="8", patternUnits="userSpaceOnUse"
        )
        several = each.label == "+"
        colour = SMALLER_TABLES if several else COLOURS[place % len(COLOURS)]
        add(tile, "rect", width="8", height="8", fill=colour)
        path = "" if several else PATTERNS[place % len(PATTERNS)]
        if path:
            add(tile, "path", d=path, fill="none", stroke="black", opacity="0.5")
