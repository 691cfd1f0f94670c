"""What is left of a text when case, accents, punctuation, articles and years are gone."""

import pytest

from trainer.ranking.plain_text import nearest, plain, plain_title


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Amélie", "amelie"),
        ("  Alien³!", "alien3"),
        ("Bug's--Life", "bugs life"),
        ("Straße", "strasse"),
    ],
)
def test_a_text_in_plain_letters(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Matrix, The (1999)", "matrix"),
        ("The Matrix", "matrix"),
        ("An Affair, A", "affair"),
        ("The", "the"),
        ("Theodore (1990)", "theodore"),
        ("(1999)", "1999"),
    ],
)
def test_a_title_without_year_and_article(title: str, expected: str) -> None:
    assert plain_title(title) == expected


def test_the_nearest_texts_come_as_they_are_written() -> None:
    assert nearest("comdey", ["Drama", "Comedy", "Crime"], 1) == ["Comedy"]
    assert nearest("xyz", ["Drama", "Comedy"]) == []
