"""Titles as people type them, and what is found."""

import pyarrow as pa
import pytest

from trainer.errors import UserError
from trainer.ranking.catalogue import Catalogue
from trainer.ranking.titles import find_titles, near_titles, row_of_title, titled

TITLES = [
    "Matrix, The (1999)",
    "Star Wars (1977)",
    "Star Wars: Episode I (1999)",
    "Hamlet (1990)",
    "Hamlet (1996)",
    "Amélie (2001)",
    None,
    "Bug's Life, A (1998)",
    "Napoleon (1927)",
    "Professional, The (Leon) (1994)",
    "!!!",
    "東京物語 (1953)",
]
CATALOGUE = Catalogue(pa.array(range(100, 112)), pa.array(TITLES), "movie", pa.table({}))


def found(text: str, limit: int = 10) -> list[str | None]:
    return [CATALOGUE.title(row) for row in find_titles(CATALOGUE, text, limit).tolist()]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("The Matrix", 0),
        ("matrix", 0),
        ("MATRIX, THE (1999)", 0),
        ("amelie", 5),
        ("AMÉLIE (2001)", 5),
        ("a bugs life", 7),
        ("Hamlet (1996)", 4),
        ("!!!", 10),
        ("東京物語", 11),
    ],
)
def test_a_title_is_known_without_year_accents_article_and_case(text: str, row: int) -> None:
    assert titled(CATALOGUE, text) == [row]
    assert row_of_title(CATALOGUE, text, "--history") == row
    assert find_titles(CATALOGUE, text)[0] == row


def test_the_exact_title_comes_first_then_those_that_begin_with_it() -> None:
    assert found("star wars") == ["Star Wars (1977)", "Star Wars: Episode I (1999)"]
    assert found("star wa", 1) == ["Star Wars (1977)"]


def test_the_beginning_of_a_word_goes_before_its_inside() -> None:
    assert found("Léon") == ["Professional, The (Leon) (1994)", "Napoleon (1927)"]


@pytest.mark.parametrize(
    ("slip", "title"), [("Teh Matrix", TITLES[0]), ("Star Warz", TITLES[1]), ("amellie", TITLES[5])]
)
def test_a_slip_finds_the_nearest_title(slip: str, title: str) -> None:
    assert found(slip)[0] == title
    assert row_of_title(CATALOGUE, slip, "--history") is None
    assert f'; nearest titles: "{title}" (10' in near_titles(CATALOGUE, slip)


def test_what_is_like_no_title_finds_none() -> None:
    assert found("zzz") == []
    assert near_titles(CATALOGUE, "zzz") == ""
    assert found("") == []


def test_a_title_that_several_items_share_is_refused_with_their_ids() -> None:
    message = (
        r"--item hamlet: 2 items have this title \(\"Hamlet \(1990\)\" \(103\), \"Hamlet \(1996\)\" \(104\)"
    )
    with pytest.raises(UserError, match=message):
        row_of_title(CATALOGUE, "hamlet", "--item")


def test_without_titles_nothing_is_found() -> None:
    bare = Catalogue(CATALOGUE.item_ids, None, "movie", pa.table({}))
    assert len(find_titles(bare, "Hamlet")) == len(titled(bare, "Hamlet")) == 0
