"""What was shown and not taken is an explicit negative, unless it was taken, came too late or is unknown."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trainer.dataset.build import prepare
from trainer.dataset.dataset import Dataset, Interactions, open_dataset
from trainer.errors import DataError
from trainer.sources.schema import SourceTables

TYPES = {"value": pa.float32(), "weight": pa.float32()}
PLAIN, TIMED = ("user_id", "item_id"), ("user_id", "item_id", "timestamp")
WEIGHED, VALUED = ("user_id", "item_id", "weight"), ("user_id", "item_id", "value")


def batches(rows: list[tuple], columns: tuple[str, ...]):
    table = {
        name: pa.array([row[place] for row in rows], TYPES.get(name)) for place, name in enumerate(columns)
    }
    return iter(pa.table(table).to_batches())


def ready(
    cache: Path,
    rows: list[tuple],
    columns: tuple[str, ...],
    shown: list[tuple],
    shown_columns: tuple[str, ...] = PLAIN,
    **settings: Any,
) -> Dataset:
    """Prepare interactions and impressions with the given columns, and open them."""
    defaults = {"min_value": None, "k_core": 0, "split": "none", "test_size": 0.5, "validation_size": 0}
    source = SourceTables(batches(rows, columns), impressions=batches(shown, shown_columns))
    settings = {"name": "small", "split_seed": 42, "negatives": "use"} | defaults | settings
    return open_dataset(prepare(lambda: source, {}, cache, **settings))


def raw(dataset: Dataset, part: Interactions | None) -> list[tuple]:
    assert part is not None
    users, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    return sorted((users[u], items[i]) for u, i in zip(part.users, part.items, strict=True))


def counts(dataset: Dataset) -> dict[str, int]:
    """Counts of impressions by outcome, but for those that are 0."""
    found = {name.removeprefix("impressions_"): dataset.report[name] for name in dataset.report}
    names = ("impressions", "read", "unknown", "weightless", "late", "taken", "judged", "repeated")
    return {name: found[name] for name in names if f"impressions_{name}" in dataset.report and found[name]}


TAKEN = [(1, 10), (1, 11), (2, 10), (3, 12)]


def test_impressions_are_negatives_and_the_splits_stay_as_they_are(tmp_path: Path) -> None:
    dataset = ready(tmp_path, TAKEN, PLAIN, [(1, 12), (2, 11), (3, 10)])
    assert raw(dataset, dataset.shown) == [(1, 12), (2, 11), (3, 10)]
    assert raw(dataset, dataset.explicit_negatives()) == [(1, 12), (2, 11), (3, 10)]
    assert raw(dataset, dataset.train) == TAKEN
    assert (dataset.negatives, dataset.report["impressions"]) == (None, 3)
    assert counts(dataset) == {"read": 3}


def test_without_being_asked_for_none_is_a_negative(tmp_path: Path) -> None:
    dataset = ready(tmp_path, TAKEN, PLAIN, [(1, 12)], negatives="drop")
    assert (dataset.shown, dataset.explicit_negatives()) == (None, None)
    assert "impressions" not in dataset.report


@pytest.mark.parametrize("split", ["random", "per_user", "none"])
def test_a_pair_that_was_taken_is_no_negative_in_whatever_split_it_lies(tmp_path: Path, split: str) -> None:
    rows = [(user, item) for user in range(10) for item in range(10) if (user + item) % 2]
    shown = [(user, item) for user in range(10) for item in range(10)]
    dataset = ready(tmp_path, rows, PLAIN, shown, split=split)
    users, items = map(set, zip(*raw(dataset, dataset.train), strict=True))
    expected = [pair for pair in shown if pair not in rows and pair[0] in users and pair[1] in items]
    assert raw(dataset, dataset.shown) == expected
    assert len(expected) >= 40


def test_users_and_items_without_training_interactions_are_left_out_and_counted(tmp_path: Path) -> None:
    # Row 3 of time 4 is the test split, so that user 3 and item 12 are not trained on.
    rows = [(1, 10, 1), (1, 11, 2), (2, 10, 3), (3, 12, 4)]
    shown = [(1, 99), (9, 10), (9, 99), (3, 10), (1, 12), (2, 11)]
    dataset = ready(tmp_path, rows, TIMED, shown, split="temporal", test_size=0.25)
    assert raw(dataset, dataset.shown) == [(2, 11)]
    assert counts(dataset) == {"read": 6, "unknown": 5}
    assert (dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()) == ([1, 2, 3], [10, 11, 12])


def test_impressions_from_the_held_out_time_do_not_shape_training(tmp_path: Path) -> None:
    # Of times 1 to 8, 7 and 8 are the test split and 5 and 6 the validation split: training ends before 5.
    rows = [(1, 10, 1), (2, 11, 2), (3, 12, 3), (1, 11, 4), (2, 10, 5), (3, 10, 6), (1, 13, 7), (2, 13, 8)]
    shown = [(2, 12, 4), (3, 11, 5), (1, 12, 9), (3, 11, 4)]
    by_time = {"split": "temporal", "test_size": 0.25, "validation_size": 0.33}
    dataset = ready(tmp_path / "timed", rows, TIMED, shown, TIMED, **by_time)
    assert raw(dataset, dataset.shown) == [(2, 12), (3, 11)]
    assert counts(dataset) == {"read": 4, "late": 2}
    assert dataset.notes == []
    untimed = ready(tmp_path / "untimed", rows, TIMED, [row[:2] for row in shown], **by_time)
    assert raw(untimed, untimed.shown) == [(1, 12), (2, 12), (3, 11)]
    assert untimed.notes == ["impressions have no times: all are used, also those of the held-out time"]


def test_a_users_impressions_end_before_the_users_own_last_interaction(tmp_path: Path) -> None:
    rows = [(1, 10, 1), (1, 11, 5), (2, 11, 1), (2, 12, 9), (3, 12, 2), (3, 10, 3)]
    shown = [(1, 12, 4), (1, 12, 6), (2, 10, 8), (3, 11, 3)]
    dataset = ready(tmp_path, rows, TIMED, shown, TIMED, split="leave_last_out")
    assert raw(dataset, dataset.shown) == [(1, 12), (2, 10)]
    assert counts(dataset) == {"read": 4, "late": 2}


def test_a_pair_shown_again_counts_once_with_its_last_weight_and_not_at_all_with_none(tmp_path: Path) -> None:
    rows = [(user, item, 1.0) for user, item in TAKEN]
    shown = [(2, 11, 3.0), (1, 12, 1.0), (2, 11, 0.5), (3, 10, 0.0)]
    dataset = ready(tmp_path, rows, WEIGHED, shown, WEIGHED)
    assert raw(dataset, dataset.shown) == [(1, 12), (2, 11)]
    assert dataset.shown is not None
    assert dataset.shown.weights is not None
    assert dataset.shown.weights.tolist() == [1.0, 0.5]
    assert counts(dataset) == {"read": 4, "repeated": 1, "weightless": 1}


def test_impressions_without_weights_weigh_1_beside_interactions_that_have_them(tmp_path: Path) -> None:
    dataset = ready(tmp_path, [(user, item, 4.0) for user, item in TAKEN], WEIGHED, [(1, 12)])
    assert dataset.shown is not None
    assert dataset.shown.weights is not None
    assert dataset.shown.weights.tolist() == [1.0]


def test_what_was_judged_low_stays_what_it_is(tmp_path: Path) -> None:
    rows = [(user, item, 5.0) for user, item in TAKEN] + [(1, 12, 1.0)]
    dataset = ready(tmp_path, rows, VALUED, [(1, 12), (2, 12)], min_value=3)
    assert raw(dataset, dataset.negatives) == [(1, 12)]
    assert raw(dataset, dataset.shown) == [(2, 12)]
    assert counts(dataset) == {"read": 2, "judged": 1}
    negatives = dataset.explicit_negatives()
    assert raw(dataset, negatives) == [(1, 12), (2, 12)]
    assert negatives is not None
    assert negatives.values is not None
    assert np.isnan(negatives.values).tolist() == [False, True]


def test_ids_of_another_type_are_compared_as_text(tmp_path: Path) -> None:
    dataset = ready(tmp_path, TAKEN, PLAIN, [("1", "12"), ("guest", "10")])
    assert raw(dataset, dataset.shown) == [(1, 12)]
    assert dataset.user_ids.type == pa.int64()


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (
            [("u1", "12"), ("u2", "11")],
            "no user of 2 rows has interactions: ids are such as 'u1', 'u2' there, and 1, 2 in "
            "--data.interactions. Write them alike, or leave the option out",
        ),
        ([("1", "i12")], "no item of 1 row has interactions: ids are such as 'i12' there, and 10, 11"),
    ],
)
def test_impressions_whose_ids_meet_none_are_refused(tmp_path: Path, shown: list[tuple], words: str) -> None:
    with pytest.raises(DataError) as error:
        ready(tmp_path, TAKEN, PLAIN, shown)
    assert str(error.value).startswith(f"small: --data.impressions: {words}")


def test_impressions_of_which_none_is_left_are_said_to_be_none(tmp_path: Path) -> None:
    dataset = ready(tmp_path, TAKEN, PLAIN, TAKEN)
    assert (dataset.shown, dataset.report["impressions"]) == (None, 0)
    assert counts(dataset) == {"read": 4, "taken": 4}
