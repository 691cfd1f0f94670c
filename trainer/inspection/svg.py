"""Shapes and text of an SVG, with widths of text guessed for the widest of the usual fonts."""

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

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def add(parent: ET.Element, tag: str, words: str = "", **attributes: str) -> ET.Element:
    """A new last child; characters that XML cannot hold become U+FFFD."""
    child = ET.SubElement(parent, tag, {key: _NO_XML.sub("\ufffd", text) for key, text in attributes.items()})
    child.text = _NO_XML.sub("\ufffd", words) or None
    return child


def text(parent: ET.Element, x: float, y: float, words: str, size: int, **attributes: str) -> None:
    """One line of text whose baseline is at `y`."""
    add(parent, "text", words, x=_short(x), y=_short(y), **{"font-size": str(size), **attributes})


def rectangle(
    parent: ET.Element, x: float, y: float, width: float, height: float, fill: str, **attributes: str
) -> ET.Element:
    """A rectangle with a thin black edge, which shows it even where it is narrower than a pixel."""
    places = {"x": _short(x), "y": _short(y), "width": f"{width:.4f}", "height": _short(height)}
    return add(
        parent, "rect", **places, **{"fill": fill, "stroke": "black", "stroke-width": "0.6", **attributes}
    )


def line(parent: ET.Element, start: tuple[float, float], end: tuple[float, float], **attributes: str) -> None:
    """A straight line between two points."""
    places = zip(("x1", "y1", "x2", "y2"), (*start, *end), strict=True)
    add(parent, "line", **{key: _short(place) for key, place in places}, **{"stroke": "black", **attributes})


def sign(parent: ET.Element, x: float, y: float, letter: str) -> None:
    """A letter on white, in the middle of a patterned block."""
    add(parent, "rect", x=_short(x - 6), y=_short(y - 6), width="12", height="12", rx="2", fill="white")
    text(parent, x, y + 4, letter, SMALL, **BOLD, **MIDDLE)


def width_of(words: str, size: int) -> float:
    """Pixels that a line takes, rather too many than too few."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in words)
    return 0.64 * size * (len(words) + wide)


def cut(words: str, size: int, room: float) -> str:
    """The line, without its end if it would be wider than `room` pixels."""
    if width_of(words, size) <= room:
        return words
    while words and width_of(words + "…", size) > room:
        words = words[:-1]
    return words + "…"


def wrapped(words: str, size: int, room: float) -> list[str]:
    """Lines of prose, whose letters are narrower than those of a number, no wider than `room` pixels."""
    return textwrap.wrap(words, max(int(room / (0.6 * size)), 1))


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
