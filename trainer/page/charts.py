"""Charts as Vega-Lite specifications, made and checked by Altair; colours are those of the page's theme."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

OTHER, UNKNOWN = "other", "unknown"
"""Categories that are shown in grey."""
CATEGORIES = 8
"""Colours of the page, `--c0` to `--c7`, the last one grey."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
MUTED, INK, LINE, GRID = "var(--muted)", "var(--ink)", "var(--line)", "var(--grid)"
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "domainColor": LINE,
        "tickColor": LINE,
        "gridColor": GRID,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelLimit": 150,
    },
    "axisX": {"grid": False},
    "legend": {
        "labelColor": INK,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "orient": "top",
        "symbolStrokeWidth": 2,
        "labelLimit": 160,
    },
    "range": {"category": [f"var(--c{place})" for place in range(CATEGORIES)]},
    "line": {"strokeWidth": 2},
    "point": {"filled": True, "size": 50, "opacity": 1},
}
"""What all charts share. The page's style sheet gives the colours, so that they follow its theme."""


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: Stands above it.
        spec: Vega-Lite.
        height: Pixels.
    """

    title: str
    spec: dict[str, Any]
    height: int


@dataclass(frozen=True)
class Dot:
    """A figure of one series, with the ends of its interval.

    Attributes:
        series: Name of the series, which has a colour and a shape.
        label: What the figure is of.
        value: The figure.
        low: Lower end of the interval; equal to `value` where there is none.
        high: Upper end.
    """

    series: str
    label: str
    value: float
    low: float
    high: float


def curve(
    title: str,
    points: Mapping[str, Sequence[tuple[float, float]]],
    value: str,
    *,
    zero: bool = False,
    large: bool = False,
) -> Chart:
    """Return lines over training steps.

    Args:
        title: Of the chart.
        points: Step and value by series; a single one has no legend.
        value: What the values are, as the axis says.
        zero: Whether the axis of values begins at zero.
        large: Whether values are in the thousands, for which the axis has letters: `20k`, `3M`.
    """
    rows = [
        {"step": step, "value": _rounded(each), "series": series}
        for series, of in points.items()
        for step, each in of
    ]
    steps = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=5, format="~s"))
    axis, shown = (alt.Axis(tickCount=5, format="~s"), ",.0f") if large else (alt.Axis(tickCount=5), ".5~g")
    values = alt.Y("value:Q", title=value, scale=alt.Scale(zero=zero), axis=axis)
    tooltip = [alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", title=value, format=shown)]
    encodings: dict[str, Any] = {"x": steps, "y": values}
    if len(points) > 1:
        encodings |= {
            "color": _colour(points),
            "strokeDash": alt.StrokeDash("series:N", legend=None, sort=None),
        }
        tooltip.insert(0, alt.Tooltip("series:N", title="run"))
    base = _chart(rows)
    line = base.mark_line(color="var(--c0)").encode(**encodings)
    encodings.pop("strokeDash", None)
    dots = base.mark_point(color="var(--c0)", size=30).encode(**encodings, tooltip=tooltip)
    return _finished(title, alt.layer(line, dots), 190)


def dots(title: str, rows: Iterable[Dot], value: str, label: str, *, upright: bool = False) -> Chart:
    """Return figures with intervals, a row (or a column, if `upright`) for each label."""
    found = list(rows)
    series, names = (
        list(dict.fromkeys(row.series for row in found)),
        list(dict.fromkeys(row.label for row in found)),
    )
    shown = [
        {
            "series": row.series,
            "label": row.label,
            "value": _rounded(row.value),
            "low": _rounded(row.low),
            "high": _rounded(row.high),
            "interval": f"{row.low:.4f} to {row.high:.4f}" if row.low < row.high else "none",
        }
        for row in found
    ]
    colour, shape = _colour(series), alt.Shape("series:N", sort=series, legend=None)
    turned: dict[str, Any] = {"labelAngle": 0} if upright else {}
    of_label: dict[str, Any] = {
        "sort": names,
        "title": label or None,
        "axis": alt.Axis(ticks=False, **turned),
    }
    of_value: dict[str, Any] = {"title": value, "axis": alt.Axis(tickCount=5, grid=True)}
    along, across = ("x", "y") if upright else ("y", "x")
    classes = {"x": alt.X, "y": alt.Y}
    common: dict[str, Any] = {
        along: classes[along]("label:N", **of_label),
        f"{along}Offset": {"x": alt.XOffset, "y": alt.YOffset}[along]("series:N", sort=series),
        "color": colour,
    }
    ends: dict[str, Any] = {across: classes[across]("low:Q", **of_value), f"{across}2": "high:Q"}
    tooltip = [
        alt.Tooltip("series:N", title="by"),
        alt.Tooltip("label:N", title=label or "metric"),
        alt.Tooltip("value:Q", title=value, format=".4f"),
        alt.Tooltip("interval:N", title="95% interval"),
    ]
    place: dict[str, Any] = {across: classes[across]("value:Q", **of_value)}
    base = _chart(shown)
    whiskers = base.mark_rule(strokeWidth=2).encode(**common, **ends)
    points = base.mark_point(size=55).encode(**common, **place, shape=shape, tooltip=tooltip)
    height = 230 if upright else 60 + 15 * len(names) * (len(series) + 1)
    return _finished(title, alt.layer(whiskers, points), height)


def trials(title: str, figures: Mapping[str, float], label: str, value: str) -> Chart:
    """Return the figure of each value that was tried, the best one marked."""
    best = max(figures, key=lambda name: figures[name])
    rows = [
        {"label": name, "value": _rounded(figure), "best": name == best} for name, figure in figures.items()
    ]
    x = alt.X("label:N", sort=list(figures), title=label, axis=alt.Axis(labelAngle=0))
    y = alt.Y("value:Q", title=value, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    tooltip = [alt.Tooltip("label:N", title=label), alt.Tooltip("value:Q", title=value, format=".4f")]
    base = _chart(rows).encode(x=x, y=y)
    lines = base.mark_line(color="var(--c7)", strokeWidth=1)
    points = base.mark_point(color="var(--c0)").encode(
        tooltip=tooltip, size=alt.condition(alt.datum.best, alt.value(140), alt.value(40))
    )
    return _finished(title, alt.layer(lines, points), 170)


def scatter(
    title: str,
    places: Iterable[Sequence[float]],
    texts: Mapping[str, Sequence[str]],
    values: Sequence[str] | Sequence[float | None],
    names: Sequence[str],
    attribute: str | None,
) -> Chart:
    """Return a map of points with texts on hover; a click on the legend shows one category alone.

    Args:
        title: Of the chart.
        places: Coordinates of each point, from 0 to 100.
        texts: What is shown of each point, by heading.
        values: What colours each point; none: all are alike.
        names: Categories in the order of their colours; empty for numbers.
        attribute: Heading of the legend.
    """
    rows: list[dict[str, Any]] = [{"x": round(x, 2), "y": round(y, 2)} for x, y in places]
    for number, column in enumerate(texts.values()):
        for row, text in zip(rows, column, strict=True):
            row[f"t{number}"] = text
    for row, value in zip(rows, values, strict=False):
        row["value"] = value
    tooltip = [alt.Tooltip(f"t{number}:N", title=heading) for number, heading in enumerate(texts)]
    bare = alt.Axis(labels=False, ticks=False, grid=False, domain=False)
    chart = (
        _chart(rows)
        .mark_point(size=26, opacity=0.8, color="var(--c0)")
        .encode(x=alt.X("x:Q", title=None, axis=bare), y=alt.Y("y:Q", title=None, axis=bare), tooltip=tooltip)
    )
    if names:
        places_of = {OTHER: 7, UNKNOWN: 7}
        colours = [f"var(--c{places_of.get(name, number)})" for number, name in enumerate(names)]
        picked = alt.selection_point(fields=["value"], bind="legend", name="picked")
        colour = alt.Color(
            "value:N",
            title=attribute,
            scale=alt.Scale(domain=list(names), range=colours),
            legend=alt.Legend(columns=4, symbolOpacity=1),
        )
        opacity = alt.condition(picked, alt.value(0.85), alt.value(0.06))
        chart = chart.encode(color=colour, opacity=opacity).add_params(picked)
    elif len(values):
        scale = alt.Scale(scheme="viridis")
        chart = chart.encode(color=alt.Color("value:Q", title=attribute, scale=scale))
    return _finished(title, chart, 520)


def _chart(rows: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=rows))


def _colour(series: Iterable[str]) -> alt.Color:
    names = list(series)
    legend = alt.Legend(title=None) if len(names) > 1 else None
    return alt.Color("series:N", sort=names, scale=alt.Scale(domain=names), legend=legend)


def _finished(title: str, chart: alt.Chart | alt.LayerChart | alt.FacetChart, height: int) -> Chart:
    """Return a chart as wide as its place; without what a browser could take for an address."""
    fit = alt.AutoSizeParams(type="fit", contains="padding")
    spec = chart.properties(width="container", height=height, autosize=fit).to_dict()
    spec.pop("$schema")
    spec.pop("config")
    return Chart(title, spec | {"description": title}, height)


def _rounded(value: float) -> float:
    """Return a number to six digits, which is more than a chart shows."""
    return float(f"{value:.6g}")
