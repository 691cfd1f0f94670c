import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from trainer.dataset import encode
from trainer.dataset.build import prepare
from trainer.dataset.dataset import open_dataset
from trainer.dataset.vocabulary import copy_vocabulary, open_vocabulary
from trainer.errors import DataError
from trainer.sources.schema import BadRows, SourceTables
from trainer.storage import columns

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SHARDTOWER_DATA", ROOT.parent / "shared" / "data"))
TYPES = {"value": pa.float32(), "timestamp": pa.int64()}

# user, item, value, second; in time order user 9 saw 20, 40, 30, user 7 30, 20, and user 8 30.
ROWS = [(9, 40, 5, 11), (9, 20, 4, 10), (7, 30, 1, 20), (9, 30, 2, 12), (7, 20, 3, 21), (8, 30, 5, 30)]


def batches(rows, columns=("user_id", "item_id", "value", "timestamp"), size=2):
    """Record batches of `size` rows, so that small data crosses their borders, too."""
    table = pa.table({c: pa.array([row[n] for row in rows], TYPES.get(c)) for n, c in enumerate(columns)})
    return iter(table.to_batches(size))


def ready(cache, source, key=None, **settings):
    """Prepare a source under the default settings except `settings`, and open it."""
    defaults = {"min_value": None, "k_core": 0, "split": "leave_last_out", "test_size": 0.5}
    settings = {"name": "small", "validation_size": 0, "split_seed": 42} | defaults | settings
    return open_dataset(prepare(lambda: source, {"key": key}, cache, **settings))


def raw(dataset, part):
    """The (user, item) ids of a part, in order."""
    users, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    return [(users[u], items[i]) for u, i in zip(part.users, part.items, strict=True)]


def lists(ragged):
    return [ragged.values[a:b].tolist() for a, b in pairwise(ragged.offsets)]


def test_interactions_are_encoded_in_order_of_first_appearance_and_keep_their_file_order(tmp_path):
    dataset = ready(tmp_path, SourceTables(batches(ROWS), item_name="movie"))
    assert dataset.user_ids.to_pylist() == [9, 7, 8]
    assert dataset.item_ids.to_pylist() == [40, 20, 30]
    assert (dataset.user_count, dataset.item_count, dataset.item_name) == (3, 3, "movie")
    # Last of 9: 30 at second 12. Last of 7: 20 at second 21. User 8 has one row, which stays.
    assert raw(dataset, dataset.train) == [(9, 40), (9, 20), (7, 30), (8, 30)]
    assert raw(dataset, dataset.test) == [(9, 30), (7, 20)]
    assert len(dataset.validation) == 0
    assert dataset.train.values.tolist() == [5, 4, 1, 5]
    assert dataset.test.timestamps.tolist() == [12, 21]
    kinds = [c.dtype for c in vars(dataset.train).values() if c is not None]
    assert kinds == [np.int32, np.int32, np.float32, np.int64]


def test_known_and_held_out_items_stand_by_user_in_ascending_order(tmp_path):
    dataset = ready(tmp_path, SourceTables(batches(ROWS)), validation_size=0.5)
    # Rows of items: 40 -> 0, 20 -> 1, 30 -> 2. User 9 in time order: 20 trains, 40 validates, 30 tests;
    # user 7 keeps 30 to train and 20 to test; user 8 trains on 30; the last row is the unknown user's.
    assert lists(dataset.train_by_user()) == lists(dataset.train_by_user()) == [[1], [2], [2], []]
    assert lists(dataset.seen("test")) == [[0, 1], [2], [2], []]
    assert lists(dataset.held_out("validation")) == [[0], [], [], []]
    assert lists(dataset.held_out("test")) == [[2], [1], [], []]


def test_without_validation_what_is_known_before_the_test_is_the_training_part(tmp_path):
    dataset = ready(tmp_path, SourceTables(batches(ROWS)))
    assert lists(dataset.seen("test")) == lists(dataset.train_by_user()) == [[0, 1], [2], [2], []]
    assert lists(dataset.held_out("validation")) == [[], [], [], []]


def test_columns_are_mapped_not_read(tmp_path):
    dataset = ready(tmp_path, SourceTables(batches(ROWS)))
    for array in (dataset.train.users, dataset.seen("test").values):
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable


def test_values_and_timestamps_may_be_absent(tmp_path):
    rows = [row[:2] for row in ROWS]
    dataset = ready(tmp_path, SourceTables(batches(rows, ("user_id", "item_id"))), split="random")
    assert (dataset.train.values, dataset.train.timestamps) == (None, None)
    assert sorted(raw(dataset, dataset.train) + raw(dataset, dataset.test)) == sorted(rows)


def test_string_ids_stay_strings(tmp_path):
    rows = [(f"u{u}", f"{i:04}", v, t) for u, i, v, t in ROWS]
    dataset = ready(tmp_path, SourceTables(batches(rows)))
    assert dataset.user_ids.to_pylist() == ["u9", "u7", "u8"]
    assert (dataset.item_row("0020"), dataset.item_row("20"), dataset.item_row(20)) == (1, None, None)


def test_an_integer_id_is_found_by_its_text(tmp_path):
    dataset = ready(tmp_path, SourceTables(batches(ROWS)))
    assert (dataset.user_row("7"), dataset.user_row(7), dataset.item_row("30")) == (1, 1, 2)
    for stranger in ("6", 6, "seven", "7.0", "07", "0_7", " 7", "", str(2**63), -(2**70)):
        assert dataset.user_row(stranger) is None


def test_a_vocabulary_that_grows_over_several_rounds_agrees_with_one_round(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    rows = [(int(u), f"i{i}", 1, t) for t, (u, i) in enumerate(generator.integers(0, 60, (500, 2)))]
    whole = ready(tmp_path / "whole", SourceTables(batches(rows)))
    monkeypatch.setattr(encode, "ROUND_ROWS", 7)
    pieces = ready(tmp_path / "pieces", SourceTables(batches(rows)))
    assert (
        whole.item_ids.to_pylist() == pieces.item_ids.to_pylist() == list(dict.fromkeys(r[1] for r in rows))
    )
    assert raw(whole, whole.train) == raw(pieces, pieces.train)


def test_blocks_and_groups_leave_the_same_bytes(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    rows = [(int(u), int(i) * 1000, v, t) for u, i, v, t in generator.integers(0, 60, (2000, 4))]
    settings = {"split": "random", "validation_size": 0.2, "min_value": 5, "k_core": 4}
    whole = ready(tmp_path / "whole", SourceTables(batches(rows)), **settings)
    for name, least in (("BLOCK_ROWS", 64), ("GROUP_ROWS", 100)):
        monkeypatch.setattr(columns, name, least)
    monkeypatch.setattr(encode, "LARGEST_LISTED", 30_000)  # item ids beyond are hashed
    pieces = ready(tmp_path / "pieces", SourceTables(batches(rows)), **settings)
    assert whole.report == pieces.report
    assert whole.report["duplicates"] > 0
    same_bytes(whole, pieces)


@pytest.mark.parametrize("split", ["temporal", "leave_last_out"])
def test_blocks_and_groups_repeat_the_same_pairs(tmp_path, monkeypatch, split):
    generator = np.random.default_rng(0)
    rows = [(int(u), int(i), 1, int(t)) for u, i, t in generator.integers(0, 40, (3000, 3))]
    settings = {"split": split, "repeats": "keep", "k_core": 4}
    whole = ready(tmp_path / "whole", SourceTables(batches(rows, size=100)), **settings)
    for name, least in (("BLOCK_ROWS", 64), ("GROUP_ROWS", 100)):
        monkeypatch.setattr(columns, name, least)
    pieces = ready(tmp_path / "pieces", SourceTables(batches(rows, size=100)), **settings)
    assert whole.report == pieces.report
    assert whole.report["repeats_kept"] > 0
    same_bytes(whole, pieces)


def same_bytes(whole, pieces):
    files = sorted(path.name for path in whole.folder.iterdir())
    assert files == sorted(path.name for path in pieces.folder.iterdir())
    for name in files:
        assert (whole.folder / name).read_bytes() == (pieces.folder / name).read_bytes(), name


@pytest.mark.parametrize("late", [-1, 2**40])
def test_an_id_that_is_no_place_in_a_list_may_come_late(tmp_path, monkeypatch, late):
    monkeypatch.setattr(encode, "ROUND_ROWS", 4)
    # 4095 is the last place of the list at first, which -1 is of any; behind them come old and new ids.
    pairs = [(7, 4095), (7, late), (8, late), (9, late), (11, 40), (11, 99), (9, 99), (8, 4095)]
    rows = [*ROWS, *((user, item, 1, 50 + place) for place, (user, item) in enumerate(pairs))]
    dataset = ready(tmp_path, SourceTables(batches(rows)))
    assert dataset.user_ids.to_pylist() == [9, 7, 8, 11]
    assert dataset.item_ids.to_pylist() == [40, 20, 30, 4095, late, 99]
    assert sorted(raw(dataset, dataset.train) + raw(dataset, dataset.test)) == sorted(row[:2] for row in rows)


def test_empty_batches_are_no_trouble(tmp_path):
    empty = pa.record_batch({c: pa.array([], TYPES.get(c, pa.int64())) for c in list(encode.COLUMNS)[:4]})
    dataset = ready(tmp_path, SourceTables(iter([empty, *batches(ROWS), empty])))
    assert dataset.report["read"] == 6


def test_cleaning_counts_what_each_rule_drops(tmp_path):
    rows = [
        (1, 10, 5, 1),
        (1, 10, 4, 2),  # repeats the pair before
        (1, 11, 1, 3),  # below 3
        (2, 10, 5, 4),
        (1, 12, 5, 5),
        (2, 12, 5, 6),
        (3, 12, 5, 7),  # user 3 has one row
        (1, 12, 2, 8),  # below 3, so that it does not replace the row of second 5
    ]
    source = SourceTables(batches(rows), bad_rows=BadRows("skip", skipped=4))
    dataset = ready(tmp_path, source, min_value=3, k_core=2)
    assert dataset.report == {
        "read": 8, "skipped": 4, "below_min_value": 2, "duplicates": 1, "outside_k_core": 1,
        "repeats_dropped": 0, "split": "leave_last_out", "train": 2, "validation": 0, "test": 2,
        "held_out_users": 2, "known_users": 2, "held_out_items": 1, "known_items": 0,
        "users": 2, "items": 2,
    }  # fmt: skip
    assert raw(dataset, dataset.train) == [(1, 10), (2, 10)]
    assert raw(dataset, dataset.test) == [(1, 12), (2, 12)]
    assert dataset.train.timestamps.tolist() == [1, 4]
    # User 3 and item 11 have left the vocabulary.
    assert (dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()) == ([1, 2], [10, 12])


# A shop: what users 1, 2 and 3 buy at seconds 1 to 10. Users 1 and 2 buy item 10 again at seconds 8 and 9,
# and user 1 item 11 at second 5.
SHOP = [
    (1, 10, 1, 1), (2, 10, 1, 2), (1, 11, 1, 3), (3, 12, 1, 4), (1, 11, 1, 5), (2, 12, 1, 6), (3, 13, 1, 7),
    (1, 10, 1, 8), (2, 10, 1, 9), (3, 14, 1, 10),
]  # fmt: skip


def test_a_split_by_time_trains_on_what_stood_before_whatever_is_repeated_later(tmp_path):
    dataset = ready(tmp_path, SourceTables(batches(SHOP)), split="temporal", test_size=0.25)
    # Of 7 pairs the latest ceil(0.25 x 7) = 2 are to be found, those of seconds 7 and 10.
    assert raw(dataset, dataset.train) == [(1, 10), (2, 10), (1, 11), (3, 12), (2, 12)]
    assert dataset.train.timestamps.tolist() == [1, 2, 3, 4, 6]
    assert raw(dataset, dataset.test) == [(3, 13), (3, 14)]
    assert (dataset.report["duplicates"], dataset.report["repeats_dropped"]) == (3, 2)


def test_repeats_that_are_kept_are_added_to_the_test_part_alone(tmp_path):
    settings = {"split": "temporal", "test_size": 0.25, "validation_size": 0.2}
    dropped = ready(tmp_path, SourceTables(batches(SHOP)), **settings)
    kept = ready(tmp_path, SourceTables(batches(SHOP)), repeats="keep", **settings)
    # What is repeated at second 5 lies before the test part and does not count.
    assert raw(kept, kept.test) == [(3, 13), (1, 10), (2, 10), (3, 14)]
    assert kept.test.timestamps.tolist() == [7, 8, 9, 10]
    assert raw(kept, kept.train) == raw(dropped, dropped.train)
    assert raw(kept, kept.validation) == raw(dropped, dropped.validation) == [(2, 12)]
    assert (kept.report["duplicates"], kept.report["repeats_kept"]) == (1, 2)


def test_the_last_item_of_a_user_is_the_last_that_they_did_not_have(tmp_path):
    dropped = ready(tmp_path, SourceTables(batches(SHOP)))
    # User 1 has 10 and then 11, and at seconds 5 and 8 both again; user 2 has 10, 12, and 10 again.
    assert raw(dropped, dropped.train) == [(1, 10), (2, 10), (3, 12), (3, 13)]
    assert raw(dropped, dropped.test) == [(1, 11), (2, 12), (3, 14)]
    assert dropped.report["repeats_dropped"] == 2
    kept = ready(tmp_path, SourceTables(batches(SHOP)), repeats="keep")
    assert raw(kept, kept.train) == raw(dropped, dropped.train)
    assert raw(kept, kept.test) == [(1, 11), (2, 12), (1, 10), (2, 10), (3, 14)]


def test_without_a_split_by_time_the_last_row_of_a_pair_counts(tmp_path):
    dataset = ready(tmp_path, SourceTables(batches(SHOP)), split="per_user")
    seconds = np.concatenate([dataset.train.timestamps, dataset.test.timestamps])
    assert sorted(seconds.tolist()) == [4, 5, 6, 7, 8, 9, 10]
    assert not [name for name in dataset.report if name.startswith("repeats")]


def test_what_is_trained_on_is_what_a_reader_of_the_log_knew_at_the_cut(tmp_path):
    generator = np.random.default_rng(3)
    rows = [(int(u), int(i), 1, int(t)) for u, i, t in generator.integers(0, 40, (3000, 3))]
    dataset = ready(tmp_path, SourceTables(batches(rows, size=100)), split="temporal", test_size=0.3)
    known: dict[tuple[int, int], int] = {}
    for user, item, _, second in sorted(rows, key=lambda row: row[3]):  # stable: then in file order
        known.setdefault((user, item), second)
    pairs = list(known)
    cut = len(pairs) - int(np.ceil(0.3 * len(pairs)))
    assert set(raw(dataset, dataset.train)) == set(pairs[:cut])
    assert set(raw(dataset, dataset.test)) == set(pairs[cut:])
    assert dict(zip(raw(dataset, dataset.train), dataset.train.timestamps, strict=True)) == {
        pair: known[pair] for pair in pairs[:cut]
    }


def test_a_held_out_file_is_the_test_part_whatever_the_split(tmp_path):
    source = SourceTables(batches(ROWS[:4]), held_out=batches([(8, 50, 1, 1), (9, 20, 1, 1), (8, 40, 1, 1)]))
    dataset = ready(tmp_path, source, split="random")
    # (9, 20) stands in both files and stays in the held-out one, though it is older there.
    assert raw(dataset, dataset.train) == [(9, 40), (7, 30), (9, 30)]
    assert raw(dataset, dataset.test) == [(8, 50), (9, 20), (8, 40)]
    assert (dataset.report["split"], dataset.report["duplicates"]) == ("given", 1)
    assert dataset.user_ids.to_pylist() == [9, 7, 8]
    assert dataset.item_ids.to_pylist() == [40, 20, 30, 50]


def test_attributes_become_features_of_the_vocabulary(tmp_path):
    users = pa.table({"user_id": [8, 99, 9], "gender": ["F", "X", "M"], "height": [1.7, 1.8, 1.9]})
    items = pa.table(
        {
            "item_id": [30, 20, 77],
            "title": ["Thirty", "Twenty", "No"],
            "genres": [["war"], ["war", "art"], ["no"]],
        }
    )
    dataset = ready(tmp_path, SourceTables(batches(ROWS), users=users, items=items))
    # Users 9, 7 (no attributes), 8, unknown; F 0, M 1, unknown 2. User 99 and its X are nobody's.
    gender = dataset.user_features["gender"]
    assert (gender.size, lists(gender.bags)) == (3, [[1], [2], [0], [2]])
    # Items 40 (no attributes), 20, 30; art 0, war 1, unknown 2.
    genres = dataset.item_features["genres"]
    assert (genres.size, lists(genres.bags)) == (3, [[2], [1, 0], [1]])
    assert dataset.titles.to_pylist() == [None, "Twenty", "Thirty"]
    assert (list(dataset.user_features), list(dataset.item_features)) == (["gender"], ["genres"])


def test_without_attributes_there_are_no_features_and_no_titles(tmp_path):
    dataset = ready(tmp_path, SourceTables(batches(ROWS)))
    assert (dataset.user_features, dataset.item_features, dataset.titles) == ({}, {}, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_value": 6}, r"small: --data.min_value 6 drops all 6 interactions"),
        ({"k_core": 4}, r"small: --data.k_core 4 drops all 6 interactions"),
        ({"split": "given"}, r"--data.split given needs a file .* --data.held_out"),
        ({"split": "random", "test_size": 1.2}, r"--data.test_size is 1.2"),
        ({"split": "random", "test_size": 0.9}, r"leaves no train interactions of 6"),
    ],
)
def test_settings_that_do_not_suit_the_data_are_refused(tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        ready(tmp_path, SourceTables(batches(ROWS)), **settings)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_least_value_without_values_is_refused(tmp_path):
    source = SourceTables(batches([row[:2] for row in ROWS], ("user_id", "item_id")))
    with pytest.raises(DataError, match=r"--data.min_value is 3, .* no values.*--data.value_column"):
        ready(tmp_path, source, min_value=3, split="random")


def test_no_interactions_at_all_are_refused(tmp_path):
    with pytest.raises(DataError, match="no interactions found"):
        ready(tmp_path, SourceTables(iter([])))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(tmp_path, value):
    rows = [*ROWS, (1, 1, value, 1)]
    with pytest.raises(DataError, match="value of interaction 7 is no finite number"):
        ready(tmp_path, SourceTables(batches(rows)))


def test_a_missing_timestamp_is_refused(tmp_path):
    with pytest.raises(DataError, match="timestamp is missing in 1 interaction"):
        ready(tmp_path, SourceTables(batches([*ROWS, (1, 1, 1, None)])))


def test_ids_of_two_types_in_one_column_are_refused(tmp_path):
    for source in (
        SourceTables(iter([*batches(ROWS), *batches([("a", 1, 1, 1)])])),
        SourceTables(batches(ROWS), held_out=batches([("a", 1, 1, 1)])),
    ):
        with pytest.raises(DataError, match="user_id is string, expected int64"):
            ready(tmp_path, source)


def test_a_held_out_file_with_other_columns_is_refused(tmp_path):
    source = SourceTables(batches(ROWS), held_out=batches([(1, 2, 3)], ("user_id", "item_id", "value")))
    with pytest.raises(DataError, match=r"columns user_id, item_id, value, expected .* timestamp"):
        ready(tmp_path, source)


def test_a_ready_folder_is_found_without_reading_the_source(tmp_path):
    first = ready(tmp_path, SourceTables(batches(ROWS)))
    assert ready(tmp_path, None).folder == first.folder


@pytest.mark.parametrize("change", [{"key": "other"}, {"split": "random"}, {"split_seed": 1}, {"k_core": 1}])
def test_another_source_or_setting_is_another_folder(tmp_path, change):
    first = ready(tmp_path, SourceTables(batches(ROWS)))
    assert ready(tmp_path, SourceTables(batches(ROWS)), **change).folder != first.folder


@pytest.mark.parametrize(
    "name", ["train_user_id.npy", "items.arrow", "by_user_test_offsets.npy", "meta.json"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_folder_is_refused_when_opened_and_prepared_anew(tmp_path, name, damage):
    folder = ready(tmp_path, SourceTables(batches(ROWS))).folder
    if damage == "missing":
        (folder / name).unlink()
    else:
        os.truncate(folder / name, (folder / name).stat().st_size - 3)
    with pytest.raises(DataError, match=rf"{name}.*Prepare it anew"):
        open_dataset(folder)
    again = ready(tmp_path, SourceTables(batches(ROWS)))
    assert raw(again, again.test) == [(9, 30), (7, 20)]


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/cache: .*--data.cache"):
        ready(tmp_path / "file" / "cache", SourceTables(batches(ROWS)))


def test_a_source_that_fails_in_the_middle_leaves_nothing(tmp_path):
    def fails():
        yield from batches(ROWS)
        raise OSError("cable pulled")

    with pytest.raises(OSError, match="cable pulled"):
        ready(tmp_path, SourceTables(fails()))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert ready(tmp_path, SourceTables(batches(ROWS))).report["read"] == 6


# Prepares ROWS in a process of its own: says `reading` after the first batch, and goes on at a line of input.
CHILD = """
import sys
from pathlib import Path
from tests.dataset.test_dataset import ROWS, SourceTables, batches, ready

def slow():
    first, *rest = batches(ROWS)
    yield first
    print("reading", flush=True)
    sys.stdin.readline()
    yield from rest

print("begun", flush=True)
print(ready(Path(sys.argv[1]), SourceTables(slow())).folder, flush=True)
"""


def child(cache):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cache)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_preparation_leaves_a_temporary_folder_that_the_next_one_removes(tmp_path):
    with child(tmp_path) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["begun\n", "reading\n"]
        process.kill()
    assert [path.suffix for path in tmp_path.iterdir() if path.is_dir()] == [".partial"]
    dataset = ready(tmp_path, SourceTables(batches(ROWS)))
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [dataset.folder]
    assert raw(dataset, dataset.test) == [(9, 30), (7, 20)]


def test_of_two_processes_at_once_one_prepares_and_the_other_waits(tmp_path):
    with child(tmp_path) as first:
        assert first.stdout is not None
        assert [first.stdout.readline() for _ in range(2)] == ["begun\n", "reading\n"]
        with child(tmp_path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "begun\n"
            time.sleep(0.3)  # time to go wrong: without a lock it would read now
            written = first.communicate("\n")[0].split()
            found = second.communicate("\n")[0].split()
    assert found == written == [str(ready(tmp_path, None).folder)]  # the second never said `reading`


def test_the_vocabulary_in_a_run_folder_outlives_the_cache(tmp_path):
    items = pa.table({"item_id": [30, 20], "title": ["Thirty", "Twenty"]})
    dataset = ready(tmp_path / "cache", SourceTables(batches(ROWS), items=items, item_name="movie"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("kept")
    copy_vocabulary(dataset, run)
    copy_vocabulary(dataset, run)  # a resumed run
    known, held_out = lists(dataset.seen("test")), lists(dataset.held_out("test"))
    for path in dataset.folder.iterdir():
        path.unlink()
    vocabulary = open_vocabulary(run)
    assert vocabulary.user_ids.to_pylist() == [9, 7, 8]
    assert (vocabulary.item_ids.to_pylist(), vocabulary.item_name) == ([40, 20, 30], "movie")
    assert vocabulary.titles.to_pylist() == [None, "Twenty", "Thirty"]
    assert lists(vocabulary.seen) == known
    assert vocabulary.held_out is not None
    assert lists(vocabulary.held_out) == held_out
    assert sum(map(len, held_out)) > 0
    assert (vocabulary.user_row("7"), vocabulary.item_row("30"), vocabulary.item_row("31")) == (1, 2, None)
    assert (run / "config.yaml").read_text() == "kept"


def test_the_vocabulary_of_another_data_set_is_replaced(tmp_path):
    copy_vocabulary(ready(tmp_path, SourceTables(batches(ROWS))), tmp_path / "run")
    other = ready(tmp_path, SourceTables(batches([(1, 2, 3, 4), (1, 3, 3, 5)])), key="other")
    copy_vocabulary(other, tmp_path / "run")
    assert open_vocabulary(tmp_path / "run").user_ids.to_pylist() == [1]


def test_a_damaged_vocabulary_is_refused(tmp_path):
    copy_vocabulary(ready(tmp_path, SourceTables(batches(ROWS))), tmp_path)
    os.truncate(tmp_path / "vocabulary" / "users.arrow", 5)
    with pytest.raises(DataError, match=r"users.arrow: has 5 bytes, expected .* Train the run anew"):
        open_vocabulary(tmp_path)


def test_a_form_of_another_version_is_refused(tmp_path):
    folder = ready(tmp_path, SourceTables(batches(ROWS))).folder
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": 0}))
    with pytest.raises(DataError, match="format 0, expected"):
        open_dataset(folder)


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "ml-100k" / "u.data").exists(), reason="ml-100k is not at hand")
def test_the_random_split_of_ml_100k_is_scikit_learns_row_for_row(tmp_path):
    selection = pytest.importorskip("sklearn.model_selection")
    table = pyarrow.csv.read_csv(
        DATA / "ml-100k" / "u.data",
        pyarrow.csv.ReadOptions(column_names=["user_id", "item_id", "value", "timestamp"]),
        pyarrow.csv.ParseOptions(delimiter="\t"),
        pyarrow.csv.ConvertOptions(column_types=TYPES),
    )
    source = SourceTables(iter(table.to_batches(10_000)))
    dataset = ready(tmp_path, source, name="ml-100k", split="random", test_size=0.2)
    assert (dataset.user_count, dataset.item_count) == (943, 1682)
    rows = list(zip(*(table[c].to_pylist() for c in ("user_id", "item_id")), strict=True))
    training, test = selection.train_test_split(range(len(rows)), test_size=0.2, random_state=42)
    assert raw(dataset, dataset.train) == [rows[row] for row in sorted(training)]
    assert raw(dataset, dataset.test) == [rows[row] for row in sorted(test)]
    assert np.array_equal(dataset.test.values, table["value"].to_numpy()[sorted(test)])
