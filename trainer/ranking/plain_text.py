"""Texts without what people leave out when they type them: case, accents, punctuation, articles, years."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
ARTICLE = re.compile(r"^(?:the|an?) (?=.)|, (?:the|an?)$", re.IGNORECASE)
"""An article in front of a title, or behind it, as catalogues write it so that titles sort without."""


def plain(text: str) -> str:
    """Return a text in lower-case letters and digits, without accents and apostrophes.

    All else becomes single spaces; a text of nothing but punctuation stays as it is.
    """
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        text = "".join(character for character in parts if not unicodedata.combining(character))
    text = text.casefold().replace("'", "")
    return " ".join("".join(each if each.isalnum() else " " for each in text).split()) or text.strip()


def plain_title(title: str) -> str:
    """Return a title in plain letters without year and article: `matrix` for `Matrix, The (1999)`."""
    return plain(ARTICLE.sub("", YEAR.sub("", title)) or title)


def nearest(text: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known texts that are most like a text, the best first; none where none is like it.

    Args:
        text: What was asked for.
        known: What there is, a few thousand at most.
        most: Most texts returned.
    """
    of_plain: dict[str, str] = {}
    for each in known:
        of_plain.setdefault(plain(each), each)
    near = difflib.get_close_matches(plain(text), of_plain, n=most, cutoff=0.5)
    return [of_plain[each] for each in near]
