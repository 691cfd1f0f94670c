"""Sequences: what each user had, oldest first, whatever order the file has."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from trainer.config.schema import DataConfig
from trainer.dataset import encode
from trainer.dataset.build import prepare
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.dataset.sequences import Sequences
from trainer.dataset.vocabulary import copy_vocabulary, open_vocabulary
from trainer.errors import DataError
from trainer.sources.schema import SourceTables
from trainer.storage import columns
from trainer.storage.attributes import Ragged

# user, item, second: user 9 had 20, 40, 50, 30, in this order, user 7 had 30, 20, and user 8 had 30.
ROWS = [(9, 40, 11), (9, 20, 10), (7, 30, 20), (9, 50, 12), (9, 30, 12), (7, 20, 21), (8, 30, 30)]


def prepared(folder: Path, rows: list[tuple[int, ...]], **settings) -> Dataset:
    """Prepare rows of user, item and, where there is a third value, second; three rows a batch."""
    names = ("user_id", "item_id", "timestamp")[: len(rows[0])]
    table = pa.table(dict(zip(names, map(pa.array, zip(*rows, strict=True)), strict=True)))
    source = SourceTables(iter(table.to_batches(3)))
    defaults = {"min_value": None, "k_core": 0, "split": "leave_last_out", "test_size": 0.5}
    settings = {"name": "small", "validation_size": 0.5, "split_seed": 1} | defaults | settings
    return open_dataset(prepare(lambda: source, {}, folder, **settings))


def items_of(dataset: Dataset, sequences: Sequences) -> list[list[int]]:
    """Raw ids of the items of each user, users in order of appearance."""
    raw = dataset.item_ids.to_pylist()
    return [[raw[item] for item in items] for items in lists(sequences.items)]


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.values[a:b].tolist() for a, b in pairwise(ragged.offsets)]


def test_items_stand_oldest_first_and_those_of_one_second_in_file_order(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, ROWS)
    # User 9: 50 and 30 have second 12; the later in the file, 30, is the last and tests, 50 validates.
    # User 7 tests on 20 and keeps 30; user 8 has one row, which trains.
    assert dataset.user_ids.to_pylist() == [9, 7, 8]
    before_validation, before_test = dataset.sequences("validation"), dataset.sequences("test")
    assert items_of(dataset, before_validation) == [[20, 40], [30], [30], []]
    assert items_of(dataset, before_test) == [[20, 40, 50], [30], [30], []]
    assert before_test.times is not None
    assert lists(before_test.times) == [[10, 11, 12], [20], [30], []]
    assert before_test.times.values.dtype == np.int64
    assert dataset.has_order


def test_without_validation_the_training_items_come_before_the_test(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, ROWS, validation_size=0)
    assert items_of(dataset, dataset.sequences("test")) == [[20, 40, 50], [30], [30], []]
    assert items_of(dataset, dataset.sequences("validation")) == [[20, 40, 50], [30], [30], []]


def test_a_pair_that_stands_twice_is_in_the_sequence_once(tmp_path: Path) -> None:
    # Splits by time keep the first of a pair, others the last.
    rows = [(1, 10, 5), (1, 20, 6), (1, 10, 7), (1, 30, 8), (2, 10, 9), (2, 20, 10)]
    dataset = prepared(tmp_path / "a", rows, validation_size=0)
    assert items_of(dataset, dataset.sequences("test")) == [[10, 20], [10], []]
    everything = prepared(tmp_path / "b", rows, split="none", validation_size=0)
    assert items_of(everything, everything.sequences("test")) == [[10, 20, 30], [10, 20], []]


def test_ties_between_two_splits_stay_in_file_order(tmp_path: Path) -> None:
    # All of one second: only the file tells the order, and a random split mixes its rows.
    rows = [(user, item, 7) for item in range(40) for user in (1, 2)]
    dataset = prepared(tmp_path, rows, split="random", validation_size=0.4, test_size=0.2)
    for name, split in (("seen", "test"), ("train_by_user", "validation")):
        listed = getattr(dataset, name)("test") if name == "seen" else dataset.train_by_user()
        found = items_of(dataset, dataset.sequences(split))
        # Items come up in ascending order, so a sequence in file order is one that ascends.
        assert found == [sorted(items) for items in found]
        assert lists(dataset.sequences(split).items) == lists(listed)
    assert len(dataset.validation) > 20


@pytest.mark.parametrize("split", ["leave_last_out", "random", "temporal", "none"])
def test_many_users_in_groups_have_the_sequences_of_a_plain_sort(
    tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BLOCK_ROWS", 64)
    monkeypatch.setattr(columns, "GROUP_ROWS", 100)
    random = np.random.default_rng(3)
    pairs = random.permutation(60 * 30)[:900]
    rows = [
        (int(p) // 30, int(p) % 30, int(t)) for p, t in zip(pairs, random.integers(-9, 9, 900), strict=True)
    ]
    dataset = prepared(tmp_path, rows, split=split, test_size=0.2, validation_size=0.2)
    raw_users, raw_items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    places = {(user, item): (second, row) for row, (user, item, second) in enumerate(rows)}
    for before in ("validation", "test"):
        seen, found = dataset.seen(before), dataset.sequences(before)
        for user, (items, expected) in enumerate(zip(lists(found.items), lists(seen), strict=True)):
            assert sorted(items) == expected
            keys = [places[raw_users[user], raw_items[item]] for item in items]
            assert keys == sorted(keys)
            assert found.times is not None
            assert [key[0] for key in keys] == lists(found.times)[user]


def test_data_without_times_have_no_sequences(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, [row[:2] for row in ROWS], split="random")
    assert not dataset.has_order
    assert not list(dataset.folder.glob("sequences*"))
    with pytest.raises(
        DataError, match=r"small: these interactions have no timestamps.*\(--data.timestamp_column\)"
    ):
        dataset.sequences("test")


def test_data_prepared_by_an_older_version_get_their_sequences_when_asked(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, ROWS)
    before, test = dataset.sequences("validation"), dataset.sequences("test")
    assert before.times is not None
    expected = [lists(before.items), lists(before.times), lists(test.items)]
    meta = json.loads((dataset.folder / "meta.json").read_text())
    del meta["has_order"]
    for path in dataset.folder.glob("sequences*"):
        path.unlink()
        del meta["files"][path.name]
    (dataset.folder / "meta.json").write_text(json.dumps(meta))
    old = open_dataset(dataset.folder)
    before, test = old.sequences("validation"), old.sequences("test")
    assert before.times is not None
    assert [lists(before.items), lists(before.times), lists(test.items)] == expected


def test_a_vocabulary_keeps_the_sequences_before_the_test(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "cache", ROWS)
    copy_vocabulary(dataset, tmp_path)
    kept, expected = open_vocabulary(tmp_path).sequences, dataset.sequences("test")
    assert kept is not None
    assert kept.times is not None
    assert expected.times is not None
    assert lists(kept.items) == lists(expected.items)
    assert lists(kept.times) == lists(expected.times)
    without = prepared(tmp_path / "other", [row[:2] for row in ROWS], split="random")
    copy_vocabulary(without, tmp_path)
    assert open_vocabulary(tmp_path).sequences is None


def test_the_order_of_a_file_stands_for_times(tmp_path: Path) -> None:
    path = tmp_path / "baskets.txt"
    path.write_text("1 30 10 20 40\n2 40 10\n3 20\n")
    data = DataConfig(name="files", interactions=str(path), cache=str(tmp_path), order="file")
    data = replace(data, split="leave_last_out", validation_size=0.5)
    dataset = open_dataset(prepare_data(data))
    assert dataset.user_ids.to_pylist() == [1, 2, 3]
    before_validation, before_test = dataset.sequences("validation"), dataset.sequences("test")
    # User 1 tests on 40 and validates on 20; user 2 tests on 10 and has then one item, as user 3 has.
    assert items_of(dataset, before_validation) == [[30, 10], [40], [20], []]
    assert items_of(dataset, before_test) == [[30, 10, 20], [40], [20], []]
    assert before_test.times is None
    assert dataset.test.timestamps is None
    assert dataset.has_order
    assert any("in order of time" in note for note in dataset.notes)


def test_with_the_order_of_a_file_its_timestamps_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n1,10,3\n1,20,never\n2,10,2\n1,30,1\n")
    data = DataConfig(name="files", interactions=str(path), cache=str(tmp_path), order="file")
    dataset = open_dataset(prepare_data(replace(data, split="leave_last_out")))
    assert items_of(dataset, dataset.sequences("test")) == [[10, 20], [10], []]


def test_rows_of_weight_0_and_several_rounds_do_not_disturb_the_order_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "ROUND_ROWS", 3)
    table = pa.table(
        {
            "user_id": [1, 1, 1, 1, 1, 1, 1, 1],
            "item_id": [80, 10, 70, 20, 60, 30, 50, 40],
            "weight": pa.array([1, 0, 0, 1, 1, 0, 1, 1], pa.float32()),
        }
    )
    source = SourceTables(iter(table.to_batches(2)))
    folder = prepare(
        lambda: source,
        {},
        tmp_path,
        name="small",
        min_value=None,
        k_core=0,
        split="leave_last_out",
        test_size=0.5,
        validation_size=0,
        split_seed=1,
        order="file",
    )
    dataset = open_dataset(folder)
    assert items_of(dataset, dataset.sequences("test")) == [[80, 20, 60, 50], []]
    assert items_of(dataset, Sequences(dataset.held_out("test"), None)) == [[40], []]


def test_what_a_user_repeats_later_in_a_file_counts_once_and_where_it_first_stood(tmp_path: Path) -> None:
    rows = [(1, 10), (1, 20), (1, 10), (1, 30), (1, 10), (2, 10), (2, 20)]
    dataset = prepared(tmp_path, rows, order="file", validation_size=0)
    # User 1 tests on 30, the last item that they did not have before, and repeats 10 after it.
    assert items_of(dataset, dataset.sequences("test")) == [[10, 20], [10], []]
    assert dataset.report["repeats_dropped"] == 1


def test_a_held_out_file_and_training_on_all_keep_the_order_of_the_files(tmp_path: Path) -> None:
    for name, text in (("train.txt", "1 30 10\n2 20\n"), ("test.txt", "1 20\n2 30 10\n")):
        (tmp_path / name).write_text(text)
    data = DataConfig(
        name="files",
        interactions=str(tmp_path / "train.txt"),
        held_out=str(tmp_path / "test.txt"),
        cache=str(tmp_path / "cache"),
        order="file",
    )
    given = open_dataset(prepare_data(data))
    assert items_of(given, given.sequences("test")) == [[30, 10], [20], []]
    everything = open_dataset(prepare_data(replace(data, split="none")))
    assert items_of(everything, everything.sequences("test")) == [[30, 10, 20], [20, 30, 10], []]
    # Without a test split, the last item validates where there is an order.
    choosing = open_dataset(prepare_data(replace(data, split="none", validation_size=0.1)))
    assert items_of(choosing, choosing.sequences("validation")) == [[30, 10], [20, 30], []]
