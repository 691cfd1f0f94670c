"""What may stand in a list: conditions, allowed and denied items, limits; against a walk down the ranking."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.errors import UserError
from trainer.ranking import selection as selection_module
from trainer.ranking.catalogue import Catalogue
from trainer.ranking.selection import Selection, make_selection, parse_limits, select, within_limits

GENRES = [["a", "b"], ["a"], ["b"], None, ["c", "c"], ["a", "c"], [], ["b"]]
CATALOGUE = Catalogue(
    pa.array(range(10, 18)),
    None,
    "item",
    pa.table(
        {
            "genres": pa.array(GENRES, pa.large_list(pa.string())),
            "maker": ["x", "x", "y", "y", None, None, None, "x"],
            "price": pa.array([1.5] * 8, pa.float32()),
        }
    ),
)
SCORES = np.linspace(1, 0, 8, dtype=np.float32)  # the ranking is the order of the rows
NONE = np.empty(0, np.int64)


def ranked(k: int, selection: Selection, left_out: np.ndarray = NONE) -> list[int]:
    return select(SCORES, k, CATALOGUE.item_ids, left_out, 0, selection).tolist()


def test_nothing_restricts_a_list_by_itself() -> None:
    assert ranked(3, make_selection(CATALOGUE)) == [0, 1, 2]


def test_allowed_denied_and_filtered_items() -> None:
    assert ranked(8, make_selection(CATALOGUE, allow=["12", 11])) == [1, 2]
    assert ranked(8, make_selection(CATALOGUE, deny=pa.array(["10", "12"]))) == [1, 3, 4, 5, 6, 7]
    assert ranked(8, make_selection(CATALOGUE, ["genres=a"], deny=[11]), np.array([5])) == [0]
    assert ranked(8, make_selection(CATALOGUE, ["genres=b"], allow=[10, 11, 12])) == [0, 2]


def test_a_limit_holds_for_each_value_of_an_item() -> None:
    # 0 takes a and b; 1, 2 and 7 are full; 3 and 6 have no value; 4 takes c, once; 5 is full twice over.
    assert ranked(8, make_selection(CATALOGUE, at_most={"genres": 1})) == [0, 3, 4, 6]
    assert ranked(8, make_selection(CATALOGUE, at_most={"genres": 2})) == [0, 1, 2, 3, 4, 6]
    assert ranked(3, make_selection(CATALOGUE, at_most={"genres": 1, "maker": 1})) == [0, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_limited_lists_are_those_of_a_walk_down_the_ranking(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    values = [generator.choice(6, generator.integers(0, 4), replace=False).tolist() for _ in range(300)]
    catalogue = Catalogue(pa.array(range(300)), None, "item", pa.table({"kind": values}))
    selection = make_selection(catalogue, at_most={"kind": 3})
    rankings = np.stack([generator.permutation(300) for _ in range(7)])
    monkeypatch.setattr(selection_module, "COUNTS", 30)  # 5 users of 6 values at a time
    taken = within_limits(rankings, 20, selection.limits)
    for ranking, chosen in zip(rankings, taken, strict=True):
        counts, expected = dict.fromkeys(range(6), 0), []
        for item in ranking:
            if len(expected) < 20 and all(counts[value] < 3 for value in values[item]):
                expected.append(item)
                for value in values[item]:
                    counts[value] += 1
        assert ranking[chosen].tolist() == expected
    scores = generator.standard_normal(300).astype(np.float32)
    whole = np.argsort(-scores)
    expected = whole[within_limits(whole[None], 20, selection.limits)[0]].tolist()
    assert select(scores, 20, catalogue.item_ids, NONE, 0, selection).tolist() == expected


def test_unknown_ids_are_noted_and_left_out() -> None:
    selection = make_selection(CATALOGUE, allow=["10", "x"], deny=["y", "z"])
    assert selection.notes == (
        "--allow: 1 of 2 ids not among the 8 items: x",
        "--deny: 2 of 2 ids not among the 8 items: y, z",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow": ["x", "y"]}, "--allow: none of 2 ids is among the 8 items (x, y). Name items of the"),
        ({"allow": [13], "where": ["genres=a"]}, "--allow: none of its 1 items meets --where. Leave one"),
        ({"deny": range(10, 18)}, "--deny: no item is left. Deny fewer items"),
        ({"at_most": {"colour": 1}}, "--at-most colour=1: the items have no attribute colour. There are: "),
        ({"at_most": {"price": 1}}, "--at-most price=1: price holds numbers with fractions"),
    ],
)
def test_what_leaves_nothing_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError) as raised:
        make_selection(CATALOGUE, **options)
    assert str(raised.value).startswith(message)


def test_limits_are_read_from_text() -> None:
    assert parse_limits(["genres=2", "release_year = 1"]) == {"genres": 2, "release_year": 1}
    for text in ("genres", "genres=0", "=2", "genres=two"):
        with pytest.raises(UserError, match=f"--at-most {text}: an attribute, = and a number from 1 up"):
            parse_limits([text])
