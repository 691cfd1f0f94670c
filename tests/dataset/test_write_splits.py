"""What held-out ids and ids of attributes have in common with those of training."""

from pathlib import Path

import pyarrow as pa
import pytest

from tests import worlds
from trainer.errors import DataError

TRAIN = [(3, 1), (3, 2), (50, 1), (50, 2)]


def test_held_out_ids_that_training_knows_are_counted(tmp_path: Path) -> None:
    items = pa.table({"item_id": [2, 7, 8], "colour": ["red", "red", "blue"]})
    dataset = worlds.dataset(tmp_path, TRAIN, [(3, 7), (50, 7), (4, 9)], items=items)
    found = {name: count for name, count in dataset.report.items() if "held_out" in name or "known" in name}
    # Users 3, 50 and 4, of whom 4 is new; items 7 and 9, both new.
    assert found == {"held_out_users": 3, "known_users": 2, "held_out_items": 2, "known_items": 0}
    # Of items 1, 2, 7 and 9 the table has 2 and 7; nobody has 8.
    assert dataset.report["items_with_attributes"] == 2
    assert "users_with_attributes" not in dataset.report


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_held_out_file_with_ids_spelled_otherwise_is_refused(tmp_path: Path, side: str) -> None:
    train = [(str(number), str(number)) for number in range(11)]
    padded = [(f"{user:>02}", item) if side == "user" else (user, f"{item:>02}") for user, item in train]
    refusal = (
        rf"none of the 11 {side}s of --data.held_out is trained on: ids are such as '00', '01' there, and '0'"
    )
    with pytest.raises(DataError, match=refusal):
        worlds.dataset(tmp_path, train, [*padded[:10], ("010", "010")])
    assert not list(tmp_path.glob("*/meta.json"))


def test_a_few_held_out_ids_may_all_be_new(tmp_path: Path) -> None:
    # With nine of them it may be chance that training knows none.
    dataset = worlds.dataset(tmp_path, TRAIN, [(3, item) for item in range(10, 19)])
    assert (dataset.report["known_items"], dataset.report["held_out_items"]) == (0, 9)


def test_new_items_that_have_attributes_may_be_all_that_is_held_out(tmp_path: Path) -> None:
    new = list(range(10, 22))
    items = pa.table({"item_id": [1, 2, *new], "colour": ["red", "blue", *["red"] * 12]})
    dataset = worlds.dataset(tmp_path, TRAIN, [(3, item) for item in new], items=items)
    assert (dataset.report["known_items"], dataset.report["held_out_items"]) == (0, 12)


def test_attributes_of_other_ids_alone_are_refused(tmp_path: Path) -> None:
    users = pa.table({"user_id": ["u3", "u50"], "age": [20, 30]})
    with pytest.raises(
        DataError, match=r"none of the 2 users has a row of attributes, .* 'u3', 'u50', in place"
    ):
        worlds.dataset(tmp_path, TRAIN, [(3, 1)], users=users)
