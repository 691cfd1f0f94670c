"""Conditions on attributes, on a catalogue of five items whose matches can be counted by eye."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.errors import UserError
from trainer.ranking.catalogue import Catalogue
from trainer.ranking.filters import Condition, matching, parse_conditions

CATALOGUE = Catalogue(
    item_ids=pa.array([10, 11, 12, 13, 14]),
    titles=None,
    item_name="movie",
    attributes=pa.table(
        {
            "genres": pa.array(
                [["Comedy", "Drama"], ["Drama"], ["Comedy"], [], None], pa.large_list(pa.string())
            ),
            "release_year": pa.array([1990, 1995, 2000, 1990, None]),
            "price": pa.array([3.7, 0.5, None, 10.0, 3.7], pa.float32()),
            "colour": ["red", "Blue", "blue", None, "red"],
            "shop_size": [1, 1, 1, 2, 2],
            "shoe_size": [[40, 41], [41], [], None, [42]],
        }
    ),
)


def rows(*texts: str) -> list[int]:
    return np.flatnonzero(matching(CATALOGUE, parse_conditions(texts))).tolist()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("genres=Comedy", [0, 2]),
        ("genres!=Comedy", [1, 3, 4]),  # of item 4 nothing is known, not that it is one
        ("genres=Comedy|Drama", [0, 1, 2]),
        ("genres!=Comedy|Drama", [3, 4]),
        ("release_year>=1995", [1, 2]),
        ("year>=1995", [1, 2]),
        ("year<1995", [0, 3]),
        ("year > 1995", [2]),
        ("year<=1995", [0, 1, 3]),
        ("year=1990", [0, 3]),
        ("year==1990.0", [0, 3]),
        ("year=1990|2000", [0, 2, 3]),
        ("year<1994.5", [0, 3]),
        ("price=3.7", [0, 4]),  # the number as it is in float32
        ("price<=3.7", [0, 1, 4]),
        ("price>-1e3", [0, 1, 3, 4]),
        ("colour=Blue", [1]),
        ("colour=BLUE", [1, 2]),
        ("colour!=red", [1, 2, 3]),
        ("shop_size=2", [3, 4]),
        ("shoe_size>40", [0, 1, 4]),
        ("genres=Comedy & year>=1995", [2]),
        ("genres=Drama & genres=Comedy", [0]),
    ],
)
def test_items_meet_a_condition(texts: str, expected: list[int]) -> None:
    assert rows(*texts.split(" & ")) == expected


def test_no_condition_is_met_by_all() -> None:
    assert rows() == [0, 1, 2, 3, 4]


def test_a_value_may_hold_signs() -> None:
    assert parse_conditions(["name=a=b>c"]) == [Condition("name=a=b>c", "name", "=", ("a=b>c",))]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("genre=Comedy", "--where genre=Comedy: the items have no attribute genre. There are: genres, rel"),
        ("size=1", "--where size=1: size may be shop_size or shoe_size. Write the whole name"),
        ("genres=Comdey", "--where genres=Comdey: no item has 'Comdey'. Nearest: Comedy"),
        ("genres!=Comdey", "--where genres!=Comdey: no item has 'Comdey'. Nearest: Comedy"),
        ("colour=xyz", "--where colour=xyz: no item has 'xyz'. Such as: Blue, blue, red"),
        ("year=x", "--where year=x: release_year holds numbers, and 'x' is none"),
        ("year>inf", "--where year>inf: release_year holds numbers, and inf is no finite one"),
        ("year=1991", "--where year=1991: no item has 1991. Nearest: 1990, 1995"),
        ("year>2000", "--where year>2000: no item matches. release_year goes from 1990 to 2000"),
        ("genres>Comedy", "--where genres>Comedy: genres holds texts, which have no order. Use = or !="),
        ("year>1|2", "--where year>1|2: > takes one value. With several, use = or !="),
        ("year", "--where year: a name, one of = != < <= > >= and a value are needed, as genres=Comedy"),
        (
            "genres=Drama & year=2000",
            "--where genres=Drama --where year=2000: no item matches all; 2 and 1 of 5 match each alone",
        ),
    ],
)
def test_what_cannot_be_met_is_one_line_that_names_what_there_is(texts: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        rows(*texts.split(" & "))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_items_without_attributes_are_said_to_have_none() -> None:
    bare = Catalogue(CATALOGUE.item_ids, None, "movie", pa.table({}))
    with pytest.raises(UserError, match=r"--where year=1: no attributes of the items are known\. Leave"):
        matching(bare, parse_conditions(["year=1"]))
