"""Values of attributes as codes and numbers, from a command line, from JSON or from Python."""

import numpy as np
import pytest

from trainer.errors import UserError
from trainer.ranking.attribute_values import category_codes, numbers

COLOURS = {"black": 0, "white": 1, "red|blue": 2}
AGES = {"lowest to 18.0": 0, "18.0 to 25.0": 1, "25.0 to highest": 2}


@pytest.mark.parametrize(
    ("value", "codes"),
    [
        ("white", [1]),
        (["white", "black"], [1, 0]),
        (np.array(["white", "black"]), [1, 0]),
        ("white|black", [1, 0]),
        ("red|blue", [2]),  # a category whose own name holds the separator
    ],
)
def test_categories_are_found_by_text_list_and_separator(value: object, codes: list[int]) -> None:
    assert category_codes("colour", value, COLOURS) == codes


@pytest.mark.parametrize(("value", "code"), [(17.9, 0), ("18", 1), (24, 1), ("25", 2), (1e9, 2)])
def test_a_number_finds_the_bucket_that_it_falls_into(value: object, code: int) -> None:
    assert category_codes("age", value, AGES) == [code]


def test_an_unknown_category_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^colour=whit: no user has whit\. Nearest: white\. Name one of"):
        category_codes("colour=whit", "whit", COLOURS)
    with pytest.raises(UserError, match=r"^age=old: no user has old\. There are: lowest to 18.0, "):
        category_codes("age=old", "old", AGES)


@pytest.mark.parametrize("value", ["1|2.5", [1, 2.5], (1, "2.5"), np.array([1, 2.5])])
def test_a_vector_is_read_from_text_and_lists(value: object) -> None:
    np.testing.assert_array_equal(numbers("taste", value, 2), np.array([1, 2.5], np.float32))


@pytest.mark.parametrize("value", ["1", [1, 2, 3], "1|nan", [1, np.inf], "tall|2", {"a": 1}])
def test_other_than_so_many_finite_numbers_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"^taste: 2 numbers are needed, with \| between them$"):
        numbers("taste", value, 2)
