"""What a run has learned, as a map of its items, and what it recommends to some users."""

from collections.abc import Iterable
from typing import Any

from trainer.formatting import format_command, format_count
from trainer.page.charts import scatter
from trainer.page.document import figure
from trainer.page.html import Html, missing, note, paragraph, tag
from trainer.report.examples import LENGTH, Example
from trainer.report.facts import RunFacts
from trainer.report.item_map import KEPT, NEIGHBOURS, ItemMap

TOO_LARGE = "The tables of this run are too large to be opened whole for it."


def map_section(run: RunFacts, found: ItemMap | None, too_large: bool) -> Iterable[Html]:
    """Yield the map of items, or why there is none."""
    if found is None:
        yield missing(TOO_LARGE if too_large else "There are too few items for a map.")
        return
    vocabulary, name = run.vocabulary, run.vocabulary.item_name
    ids = vocabulary.item_ids.take(found.rows).to_pylist()
    titles = ids if vocabulary.titles is None else vocabulary.titles.take(found.rows).to_pylist()
    names = [str(raw) if title is None else str(title) for raw, title in zip(ids, titles, strict=True)]
    texts = {name: names}
    if found.attribute:
        column = vocabulary.item_attributes[found.attribute].take(found.rows).to_pylist()
        texts[found.attribute] = [_attribute(each) for each in column]
    places = found.places.tolist()
    title = f"The {len(places):,} most popular"
    yield figure(scatter(title, places, texts, found.values, found.names, found.attribute))
    coloured = ""
    if found.names:
        coloured = (
            f" Colour: {found.attribute}; of several, the rarest. A click on the legend shows one alone."
        )
    yield note(
        f"t-SNE on the {NEIGHBOURS} nearest by cosine of the learned vectors without their bias, from "
        "principal components on; directions and distances between groups mean little. Of the "
        f"{KEPT} nearest of each {name} by vector, {found.kept:.0%} are among its {KEPT} nearest "
        f"here.{coloured}"
    )


def _attribute(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join("unknown" if each is None else str(each) for each in value) or "none"
    return "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def users_section(run: RunFacts, users: list[Example] | None) -> Iterable[Html]:
    """Yield a card for each user, or why there is none."""
    if users is None:
        yield missing(
            f"{TOO_LARGE} One user at a time: {format_command('recommend', run.label, '--user', 'ID')}"
        )
        return
    ordered = run.vocabulary.sequences is not None
    past = "the latest first" if ordered else "the most popular first"
    yield paragraph(
        f"{format_count(len(users), 'user')}, spread evenly over activity, the least active first, with at "
        f"most {LENGTH} {run.vocabulary.item_name}s of their past, {past}, and of their list. Marked is what "
        "the test part shows that they took."
    )
    yield tag("div", *(_user(each) for each in users), class_="users")


def _user(example: Example) -> Html:
    hits = sum(hit for _, hit in example.listed)
    found = f", {hits} of {example.held_out:,} found" if example.held_out else ""
    more = example.had - len(example.past)
    past = tag(
        "ul", *(tag("li", each) for each in example.past), tag("li", f"and {more:,} more") if more else None
    )
    listed = tag(
        "ol", *(tag("li", tag("span", each, class_="hit" if hit else None)) for each, hit in example.listed)
    )
    return tag(
        "div",
        tag("h3", f"User {example.user}", tag("span", f", {example.had:,} before{found}", class_="note")),
        tag(
            "div",
            tag("div", tag("h4", "past"), past),
            tag("div", tag("h4", "recommended"), listed),
            class_="columns",
        ),
        class_="user",
    )
