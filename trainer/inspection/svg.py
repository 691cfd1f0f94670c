"""Shapes and text of an SVG. Widths of text are estimates for the widest of the usual fonts."""

import re
import textwrap
import unicodedata
import xml.etree.ElementTree as ET

SMALL, TEXT, LARGE = 11, 12, 16
"""Sizes of text in pixels of 1/96 inch; the smallest is 8 points."""
FONTS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
BOLD = {"font-weight": "bold"}
END = {"text-anchor": "end"}
MIDDLE = {"text-anchor": "middle"}

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def add(parent: ET.Element, tag: str, content: str = "", **attributes: str) -> ET.Element:
    """Add a last child and return it; characters that XML does not allow become U+FFFD."""
    child = ET.SubElement(
        parent, tag, {key: _NOT_IN_XML.sub("\ufffd", value) for key, value in attributes.items()}
    )
    child.text = _NOT_IN_XML.sub("\ufffd", content) or None
    return child


def text(parent: ET.Element, x: float, y: float, content: str, size: int, **attributes: str) -> None:
    """Add a line of text whose baseline is at `y`."""
    add(parent, "text", content, x=_short(x), y=_short(y), **{"font-size": str(size), **attributes})


def rectangle(
    parent: ET.Element, x: float, y: float, width: float, height: float, fill: str, **attributes: str
) -> ET.Element:
    """Add a rectangle and return it; its thin black edge shows even if it is narrower than a pixel."""
    places = {"x": _short(x), "y": _short(y), "width": f"{width:.4f}", "height": _short(height)}
    return add(
        parent, "rect", **places, **{"fill": fill, "stroke": "black", "stroke-width": "0.6", **attributes}
    )


def line(parent: ET.Element, start: tuple[float, float], end: tuple[float, float], **attributes: str) -> None:
    """Add a straight line between two points."""
    places = zip(("x1", "y1", "x2", "y2"), (*start, *end), strict=True)
    add(parent, "line", **{key: _short(place) for key, place in places}, **{"stroke": "black", **attributes})


def sign(parent: ET.Element, x: float, y: float, letter: str) -> None:
    """Add a letter on white, centred in a patterned block."""
    add(parent, "rect", x=_short(x - 6), y=_short(y - 6), width="12", height="12", rx="2", fill="white")
    text(parent, x, y + 4, letter, SMALL, **BOLD, **MIDDLE)


def width_of(content: str, size: int) -> float:
    """Return the pixels that a line of text takes, rather too many than too few."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in content)
    return 0.64 * size * (len(content) + wide)


def cut(content: str, size: int, room: float) -> str:
    """Return the line, without its end if it is wider than `room` pixels."""
    if width_of(content, size) <= room:
        return content
    while content and width_of(content + "…", size) > room:
        content = content[:-1]
    return content + "…"


def wrapped(content: str, size: int, room: float) -> list[str]:
    """Return lines no wider than `room` pixels; letters of prose are narrower than those of a number."""
    return textwrap.wrap(content, max(int(room / (0.6 * size)), 1))


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
