"""The page: one file that holds its style, its scripts and its data, and asks the network for nothing."""

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import vl_convert

from trainer import __version__
from trainer.page.assets import CHARTS, PAGE_SCRIPT, STYLE
from trainer.page.charts import CONFIG, Chart
from trainer.page.html import Html, joined, json_block, paragraph, section, tag


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor.
        title: Its heading.
        contents: Markup.
    """

    name: str
    title: str
    contents: tuple[object, ...]


@dataclass
class Page:
    """A page.

    Attributes:
        title: Heading.
        subtitle: What it is about, in a line.
        summary: Markup that stands first.
        sections: Its parts, in order.
    """

    title: str
    subtitle: object
    summary: Html
    sections: list[Section] = field(default_factory=list)

    def add(self, name: str, title: str, *contents: object) -> None:
        """Add a part."""
        self.sections.append(Section(name, title, contents))

    def text(self) -> str:
        """Return the page as HTML."""
        # The end of a script's element would end it wherever it stands, in a string too.
        scripts = [Html(script.replace("</script", "<\\/script")) for script in (_library(), PAGE_SCRIPT)]
        policy = (
            f"default-src 'none'; script-src {' '.join(map(_hash, scripts))} 'unsafe-eval'; "
            "style-src 'unsafe-inline'; img-src data:"
        )
        head = joined(
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            tag("title", self.title),
            tag("style", Html(STYLE)),
        )
        contents = joined(*(tag("a", each.title, href=f"#{each.name}") for each in self.sections))
        body = joined(
            tag(
                "header",
                tag("div", tag("h1", self.title), paragraph(self.subtitle, class_="subtitle")),
                tag("button", "Theme: system", id="theme", type="button"),
            ),
            tag("section", self.summary, id="summary"),
            tag("nav", contents, aria_label="Contents"),
            *(section(each.name, each.title, *each.contents) for each in self.sections),
            tag("footer", f"Written by Shardtower {__version__}. {CHARTS}"),
            json_block(CONFIG, id="chart-config"),
            *(tag("script", script) for script in scripts),
        )
        html = tag("html", tag("head", head), tag("body", tag("main", body)), lang="en")
        return f"<!DOCTYPE html>\n{html}\n"


def figure(chart: Chart, *caption: object, class_: str | None = None) -> Html:
    """Return a chart with its title, and a caption where there is one."""
    place = tag(
        "div", class_="chart", style=f"min-height:{chart.height}px", role="img", aria_label=chart.title
    )
    below = tag("figcaption", *caption) if caption else None
    return tag(
        "figure", tag("h3", chart.title), place, json_block(chart.spec, class_="spec"), below, class_=class_
    )


def chart_grid(charts: Iterable[Chart]) -> Html:
    """Return charts beside each other where the page is wide enough."""
    return tag("div", *(figure(chart) for chart in charts), class_="grid")


@cache
def _library() -> str:
    """Return Vega as one script, which takes a second to be put together."""
    return vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;")


def _hash(script: str) -> str:
    """Return the source by which a content security policy allows a script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
