"""HTML that is escaped by construction: only what `tag` returns is markup, every other text is text."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Html(str):
    """Markup. A plain `str` is text and is escaped where it is put into markup."""

    __slots__ = ()


def escaped(content: object) -> Html:
    """Return markup as it is, and anything else as text."""
    return content if isinstance(content, Html) else Html(html.escape(str(content)))


def joined(*contents: object) -> Html:
    """Return contents one after another, None left out."""
    return Html("".join(escaped(each) for each in contents if each is not None))


def tag(name: str, *contents: object, **attributes: str | None) -> Html:
    """Return an element.

    Args:
        name: Of the element.
        contents: Markup or text, None left out.
        attributes: Their values; `_` stands for `-`, a `_` at the end of a name that is a keyword is dropped,
            and those that are None are left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{joined(*contents)}</{name}>")


def paragraph(*contents: object, class_: str | None = None) -> Html:
    """Return a paragraph."""
    return tag("p", *contents, class_=class_)


def note(*contents: object) -> Html:
    """Return a paragraph in smaller print: how to read what stands before it, or why something is missing."""
    return paragraph(*contents, class_="note")


def missing(sentence: str) -> Html:
    """Return a sentence that stands where a part of the page would be."""
    return paragraph(sentence, class_="missing")


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], texts: int = 1, *, class_: str | None = None
) -> Html:
    """Return a table that scrolls sideways where it is too wide.

    Args:
        head: Headings of the columns.
        rows: Cells of each row.
        texts: So many columns from the left hold text; the others hold numbers and are aligned to the right.
        class_: CSS classes of the table.
    """

    def cells(kind: str, row: Sequence[object]) -> Html:
        return tag(
            "tr",
            *(tag(kind, each, class_=None if place < texts else "number") for place, each in enumerate(row)),
        )

    body = tag("tbody", *(cells("td", row) for row in rows))
    return tag("div", tag("table", tag("thead", cells("th", head)), body, class_=class_), class_="scroll")


def facts(pairs: Mapping[str, object]) -> Html:
    """Return a list of names and what stands for each."""
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs.items()),
        class_="facts",
    )


def section(name: str, title: str, *contents: object) -> Html:
    """Return a section with a heading, which the table of contents can point to."""
    return tag("section", tag("h2", title), *contents, id=name)


def json_block(value: Any, **attributes: str) -> Html:
    """Return a data block of JSON, which scripts of the page read and no browser runs.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    # In a data block nothing ends but by a tag, and JSON needs these signs in strings alone.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", Html(text), type="application/json", **attributes)
