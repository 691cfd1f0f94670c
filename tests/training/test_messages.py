"""Texts of a training: what it reads, whom an evaluation covers, and what it cannot tell."""

from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from trainer.dataset.dataset import Dataset
from trainer.evaluation.evaluator import Evaluation
from trainer.reporting.evaluation_text import evaluation_text, protocol_text, trivial_text
from trainer.training.messages import values_text


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Three users and three items, of which one user has something to be found."""
    return worlds.dataset(tmp_path, [(1, 10), (2, 11), (3, 12)], [(1, 11)])


def evaluation(**changed: Any) -> Evaluation:
    rankers = {"model": {"ndcg@5": 0.5, "ndcg@10": 0.6}, "popularity": {"ndcg@5": 0.2, "ndcg@10": 0.3}}
    facts: dict[str, Any] = {"split": "test", "seen": "mask", "users": 2, "items": 50, "rankers": rankers}
    return Evaluation(**(facts | changed))


def test_the_heading_says_how_many_users_of_how_many_and_why(data) -> None:
    assert protocol_text(data, evaluation()) == (
        "world, test part, 2 of 3 users (1 has nothing to be found), 50 items, seen items\n  masked"
    )
    assert "1 of 3 users (2 have nothing to be found)" in protocol_text(data, evaluation(users=1))
    assert (
        protocol_text(data, evaluation(users=3)) == "world, test part, 3 users, 50 items, seen items masked"
    )


def test_one_item_is_singular(data) -> None:
    text = protocol_text(data, evaluation(users=3, items=1, left_out=1))
    assert "3 users, 1 item, seen" in text
    assert "1 item kept from an earlier run is left out" in text


def test_a_test_of_one_user_is_trivial(data) -> None:
    assert trivial_text(data, evaluation()) == []
    (warning,) = trivial_text(data, evaluation(users=1))
    assert warning.startswith("A trivial test: it has one user")
    assert warning in evaluation_text(data, evaluation(users=1)).replace("\n", " ")


def test_a_test_whose_lists_have_room_for_everything_is_trivial(data) -> None:
    (warning,) = trivial_text(data, evaluation(items=1, whole_lists=2))
    assert warning.startswith("A trivial test: for every user the list of 5 has room for every item")
    (warning,) = trivial_text(data, evaluation(users=40, whole_lists=2))
    assert warning.startswith("In part a trivial test: for 2 of 40 users")


def test_ratings_of_any_sign_that_count_as_positives_are_pointed_out(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, [(1, 10), (2, 11), (3, 12)], [(1, 11)], [-1.0, 4.0, 5.0])
    said = values_text(data, None, "softmax")
    assert said is not None
    assert said.startswith("Every interaction counts as a positive, whatever its value (from -1 to 5).")
    assert "--data.min_value 4;" in said.replace("\n  ", " ")
    assert values_text(data, 3.0, "softmax") is None
    assert values_text(data, None, "mse") is None  # which fits them


def test_values_that_are_all_alike_or_missing_need_no_word(data, tmp_path: Path) -> None:
    assert values_text(data, None, "softmax") is None
    alike = worlds.dataset(tmp_path / "alike", [(1, 10), (2, 11)], [(1, 11)], [1.0, 1.0])
    assert values_text(alike, None, "softmax") is None


def test_a_training_says_what_it_took_its_attributes_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, withheld = worlds.checkerboard()
    rows = "".join(f"{worlds.FIRST_ITEM + item},{item / 4},a|b,x\n" for item in range(8))
    (tmp_path / "items.csv").write_text(f"item_id,price,tags,unused\n{rows}")
    pairs = "".join(f"{user},{item}\n" for user, item in [*train, *withheld])
    (tmp_path / "pairs.csv").write_text(f"user_id,item_id\n{pairs}")
    worlds.trained(
        tmp_path,
        *("--data.name", "files", "--data.format", "csv", "--data.cache", str(tmp_path / "cache")),
        *("--data.interactions", str(tmp_path / "pairs.csv"), "--data.items", str(tmp_path / "items.csv")),
        *("--model.item_features", "price,tags"),
    )
    printed = " ".join(capsys.readouterr().out.split())
    # 0 to 7 quarters: their mean is 3.5 quarters, and their deviation the root of 21 / 4 quarters.
    assert "item attribute price: number, mean 0.875, deviation 0.5728, 0 of 8 missing" in printed
    assert (
        "item attribute tags: list, 2 different, 2.0 a row, 0 of 8 missing; split at '|' (guessed;" in printed
    )
    assert "unused" not in printed
