"""Recommendations from a run folder alone, on a checkerboard whose diagonal must come first."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests import worlds
from trainer.errors import CheckpointError, DivergedError, UserError
from trainer.runs.checkpoint_store import newest
from trainer.runs.run_folder import open_run
from trainer.serving import embed
from trainer.serving.listing import as_json, as_text
from trainer.serving.recommend import recommend, recommend_by_history
from trainer.serving.vector_cache import FOLDER, Vectors, open_vectors, save_vectors
from trainer.storage.tie_hashes import tie_hashes

TRAIN, WITHHELD = worlds.checkerboard()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkerboard")
    items = folder / "items.parquet"
    # The title of item 51 is known, that of item 52 is not, and the others have no row.
    pq.write_table(pa.table({"item_id": [51, 52], "title": ["The First", None]}), items)
    return worlds.trained(folder, *worlds.options(folder, TRAIN, WITHHELD), "--data.items", str(items))


@pytest.fixture(scope="module")
def textual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("textual")
    return worlds.trained(folder, *worlds.options(folder, TRAIN, WITHHELD, lambda number: f"x{number}"))


def test_every_user_is_recommended_the_diagonal_first(run: Path) -> None:
    for user, item in WITHHELD:
        found = recommend(run, str(user), 1, mark="test")
        assert (found["item"].tolist(), found["test"].tolist()) == ([item], [True])


def test_text_ids_work_as_numbers_do(textual: Path) -> None:
    for user, item in WITHHELD[:3]:
        assert recommend(textual, f"x{user}", 1, mark="test")["item"].tolist() == [f"x{item}"]


@pytest.mark.parametrize("k", [1, 3, 5, 8, 100])
def test_no_item_comes_twice_and_no_known_one_at_all(run: Path, k: int) -> None:
    for user, withheld in WITHHELD[:4]:
        seen = {item for owner, item in TRAIN if owner == user}
        for mark, known in ((None, seen | {withheld}), ("test", seen)):
            found = recommend(run, str(user), k, mark=mark)["item"].tolist()
            # 8 items, of which 3 are seen and 1 is held out: 4 or 5 are left, however many are asked for.
            assert len(found) == len(set(found)) == min(k, 8 - len(known))
            assert not known & set(found)


def test_seen_items_are_ranked_where_they_are_asked_for(run: Path) -> None:
    found = recommend(run, "1001", 100, keep_seen=True)["item"]
    assert sorted(found) == list(range(worlds.FIRST_ITEM, worlds.FIRST_ITEM + 8))


def test_scores_are_those_of_the_towers_and_descend(run: Path) -> None:
    trained = open_run(run)
    # User 1001 is row 0; every table's row is the vocabulary's.
    query = trained.tower_pairs[0].towers.query.embeddings.embedding_bags["user"].weight[0]
    tables = trained.tower_pairs[0].towers.candidate.embeddings.embedding_bags
    # Row 8 is no item: items without training interactions would look it up.
    vectors, bias = tables["item"].weight[:8], tables["item_bias"].weight[:8].mean(1)
    expected = torch.nn.functional.cosine_similarity(query.unsqueeze(0), vectors) / 0.2 + bias
    ids = trained.vocabulary.item_ids.to_pylist()
    found = recommend(run, "1001", 100, keep_seen=True)
    assert found["score"].is_monotonic_decreasing
    assert dict(zip(found["item"], found["score"], strict=True)) == pytest.approx(
        dict(zip(ids, expected.tolist(), strict=True)), abs=1e-5
    )


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `recommend` does in a process of its own; it ends with 3 where torch was imported."""
    code = (
        "import sys; from trainer.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(3 if any(name in sys.modules for name in ('torch', 'torchrec')) else code)"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, "recommend", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize("person", ["--user 1001 --mark test", "--history 53,55,57"])
def test_known_users_and_new_ones_are_served_without_torch(run: Path, person: str) -> None:
    done = without_torch(str(run), *person.split(), "-k", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split()[1] == "51"


def test_unknown_items_are_refused_without_torch(run: Path) -> None:
    done = without_torch(str(run), "--history", "8,9")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--history 8, 9: not among the 8 items" in done.stderr


def test_cached_vectors_recommend_what_towers_do(tmp_path: Path) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), "--model.low_rank", "4")
    kept = [recommend(run, str(user), 8, keep_seen=True) for user, _ in WITHHELD]
    for file in (run / FOLDER).iterdir():
        file.unlink()
    made = [recommend(run, str(user), 8, keep_seen=True) for user, _ in WITHHELD]
    for one, other in zip(kept, made, strict=True):
        pd.testing.assert_frame_equal(one, other, rtol=0, atol=0)


KINDS = {
    "ids alone": "",
    "closed form": "--model.low_rank 4",
    "dot product": "--model.similarity dot --model.low_rank 4",
    "no bias": "--model.item_bias false --model.low_rank 4",
    "dense layers": "--model.hidden 8 --model.learn_temperature true",
    "attributes": "--model.user_features colour --model.item_features year --model.combine concat",
    "attributes in place of ids": "--model.user_features colour --model.user_id false --model.low_rank 4",
    "bpr": "--loss.name bpr --batches.rows interaction",
}
LOOKED_UP = {
    "ids and histories": "--model.history true --model.low_rank 4",
    "histories alone": "--model.history true --model.user_id false",
}


@pytest.mark.parametrize("kind", [*KINDS, *LOOKED_UP])
def test_cached_vectors_serve_someone_new_as_towers_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    users = pa.table({"user_id": [1001, 1002], "colour": ["black", "white"]})
    items = pa.table({"item_id": [51, 52, 53], "year": [1990, 1991, 1990]})
    options = worlds.options(tmp_path, TRAIN, WITHHELD)
    for side, table in (("users", users), ("items", items)):
        pq.write_table(table, tmp_path / f"{side}.parquet")
        options += [f"--data.{side}", str(tmp_path / f"{side}.parquet")]
    run = worlds.trained(tmp_path, *options, "--run.epochs", "4", *(KINDS | LOOKED_UP)[kind].split())
    histories = [["54"], ["57", "53", "55"]]
    counted = Counted(embed.query_of_history)
    with monkeypatch.context() as patch:
        patch.setattr(embed, "query_of_history", counted)
        kept = [recommend_by_history(run, each, 8, keep_seen=True) for each in histories]
    assert counted.calls == (len(histories) if kind in LOOKED_UP else 0)
    for file in (run / FOLDER).iterdir():
        file.unlink()
    monkeypatch.setattr(embed, "CACHED_BYTES", 0)
    for found, history in zip(kept, histories, strict=True):
        expected = recommend_by_history(run, history, 8, keep_seen=True)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-6)
    assert list((run / FOLDER).iterdir()) == []


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: object) -> object:
        self.calls += 1
        return self.function(*arguments)


@pytest.mark.parametrize("history", [False, True])
def test_a_first_history_caches_vectors_where_the_next_are_answered_by_them(
    tmp_path: Path, history: bool
) -> None:
    settings = "--model.low_rank", "4", "--model.history", str(history).lower()
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), *settings)
    kept = {file.name: file.read_bytes() for file in (run / FOLDER).iterdir()}
    assert len(kept) == 4
    for file in (run / FOLDER).iterdir():
        file.unlink()
    recommend_by_history(run, ["53"])
    assert {file.name: file.read_bytes() for file in (run / FOLDER).iterdir()} == ({} if history else kept)


def test_vectors_of_another_checkpoint_are_not_taken(tmp_path: Path) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD))
    saved = newest(run)
    assert open_vectors(run, saved) is not None
    for file in (run / FOLDER).iterdir():
        file.rename(file.with_name(file.name.replace(saved.digest[:20], "0" * 20)))
    assert open_vectors(run, saved) is None
    expected = recommend(run, "1001", 1, mark="test")
    assert expected["item"].tolist() == [51]
    kept = [file.stem.rpartition("-")[2] for file in (run / FOLDER).glob("*.npy")]
    assert kept == [saved.digest[:20]] * 3


def test_vectors_that_are_cut_off_or_changed_are_computed_again(tmp_path: Path) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), "--model.low_rank", "4")
    for side in ("users", "histories"):
        file = next((run / FOLDER).glob(f"{side}-*"))
        whole = file.read_bytes()
        for damaged in (whole[:-8], whole[:-8] + b"damaged.", b""):
            file.write_bytes(damaged)
            assert recommend(run, "1001", 1, mark="test")["item"].tolist() == [51]
            assert file.read_bytes() == whole


def test_vectors_of_large_tables_and_of_folders_that_may_not_be_written_are_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD))
    for file in (run / FOLDER).iterdir():
        file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(embed, "CACHED_BYTES", 0)
        assert recommend(run, "1001", 1, mark="test")["item"].tolist() == [51]
        assert list((run / FOLDER).iterdir()) == []
    (run / FOLDER).rmdir()
    (run / FOLDER).write_text("in the way")
    assert recommend(run, "1001", 1, mark="test")["item"].tolist() == [51]


def test_equal_scores_come_in_the_order_of_hashes_and_bad_ones_are_refused(
    tmp_path: Path,
) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD))
    vocabulary = open_run(run).vocabulary.item_ids
    ids, hashes = vocabulary.to_pylist(), tie_hashes(vocabulary)
    first, last = (sorted(rows, key=lambda row: hashes[row]) for rows in (range(5, 8), range(5)))
    assert first + last != [5, 6, 7, 0, 1, 2, 3, 4]
    queries = np.ones((16, 3), np.float32)
    items = np.array([[0, 0.1, 0.2]] * 5 + [[1, 0, 0]] * 3, np.float32)
    save_vectors(run, newest(run), Vectors(queries, items, items[:, :0]))
    for k in (1, 4, 8):
        found = recommend(run, "1001", k, keep_seen=True)["item"].tolist()
        assert found == [ids[row] for row in first + last][:k]
    items[2] = np.nan
    save_vectors(run, newest(run), Vectors(queries, items, items[:, :0]))
    with pytest.raises(DivergedError, match="scores are NaN or infinite"):
        recommend(run, "1001")


def test_titles_stand_beside_the_ids_that_have_one(run: Path) -> None:
    found = recommend(run, "1001", 100, keep_seen=True)
    assert {item["item"]: item["title"] for item in as_json("1001", found)["items"]} == {
        51: "The First"
    } | dict.fromkeys(range(52, 59))


def test_a_data_set_without_titles_has_none(textual: Path) -> None:
    found = as_json("x1001", recommend(textual, "x1001", 1))
    assert found["items"][0]["title"] is None


def test_a_recommendation_does_not_need_the_data(run: Path, textual: Path) -> None:
    for file in [*run.parent.glob("*.parquet"), *textual.parent.glob("*.parquet")]:
        file.rename(file.with_suffix(".away"))
    try:
        assert recommend(run, "1001", 1, mark="test")["item"].tolist() == [51]
    finally:
        for file in [*run.parent.glob("*.away"), *textual.parent.glob("*.away")]:
            file.rename(file.with_suffix(".parquet"))


@pytest.mark.parametrize("user", ["9", "1001.0", " 1001", "", "x1001", "99999999999999999999"])
def test_an_unknown_user_is_named_with_examples(run: Path, user: str) -> None:
    with pytest.raises(UserError, match=r"not among the 16 users of .* \(such as 1001, 1002, 1003\)"):
        recommend(run, user)


def test_examples_are_as_many_as_there_are_users(tmp_path: Path) -> None:
    pairs = [(1, 1), (1, 2), (2, 1)]
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, pairs, [(2, 2)]))
    with pytest.raises(UserError, match=r"not among the 2 users of .* \(such as 1, 2\)"):
        recommend(run, "9")


def test_a_user_without_training_items_is_recommended_by_bias(tmp_path: Path) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, [*WITHHELD, (7, 51)]))
    trained = open_run(run)
    bias = trained.tower_pairs[0].towers.candidate.embeddings.embedding_bags["item_bias"].weight[:8].mean(1)
    found = recommend(run, "7", 100)["item"].tolist()
    ids = trained.vocabulary.item_ids.to_pylist()
    assert found == [ids[row] for row in bias.argsort(descending=True, stable=True) if ids[row] != 51]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run folder \(it has no config.yaml\)"):
        recommend(tmp_path, "1")


def test_a_user_with_the_whole_catalogue_is_told_so(tmp_path: Path) -> None:
    pairs = [(1, 1), (1, 2), (2, 1)]
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, pairs, [(2, 2)]))
    for user in ("1", "2"):  # user 2 has the second item in the test split alone
        found = recommend(run, user)
        assert found.empty
        assert as_json(user, found) == {"user": user, "items": []}
        assert as_text(found).startswith("No items are left")


@pytest.mark.parametrize("options", ["--run.epochs 20", "--model.low_rank 8"], ids=["learned", "closed form"])
def test_someone_new_is_recommended_the_withheld_diagonal(tmp_path: Path, options: str) -> None:
    train, withheld = worlds.checkerboard(users=32, items=16)
    new = {worlds.FIRST_USER + user for user in (0, 1, 18)}
    world = worlds.options(
        tmp_path, *([pair for pair in part if pair[0] not in new] for part in (train, withheld))
    )
    run = worlds.trained(tmp_path, *world, *options.split())
    for user, item in withheld:
        if user in new:
            history = [str(each) for owner, each in train if owner == user]
            assert recommend_by_history(run, history, 1)["item"].tolist() == [item]


def test_a_history_is_left_out_unless_it_is_asked_for(run: Path) -> None:
    everything = set(range(worlds.FIRST_ITEM, worlds.FIRST_ITEM + 8))
    found = recommend_by_history(run, ["53", "58", "53"], 100)["item"]
    assert (len(found), set(found)) == (6, everything - {53, 58})
    kept = recommend_by_history(run, ["53", "58"], 100, keep_seen=True)["item"]
    assert (len(kept), set(kept)) == (8, everything)


def test_an_item_named_twice_counts_once(run: Path) -> None:
    once, twice = (recommend_by_history(run, history) for history in (["53", "58"], ["53", "58", "53"]))
    pd.testing.assert_frame_equal(once, twice)


def test_unknown_items_of_a_history_are_named_and_left_out(run: Path) -> None:
    unknown = [str(number) for number in range(900, 912)]
    found = recommend_by_history(run, ["53", *unknown, " 58 "])
    pd.testing.assert_frame_equal(found, recommend_by_history(run, ["53", "58"]))
    assert (found.attrs["history"], found.attrs["unknown"]) == (["53", "58"], unknown)
    (note,) = found.attrs["notes"]
    assert note.startswith("--history 900, 901, 902, 903, 904, 905, 906, 907, 908, 909 and 2 more: not among")
    assert note.endswith("and left out; 2 of 14 given are known")
    assert as_json(found.attrs["history"], found)["unknown"] == unknown


def test_a_history_without_a_known_item_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"--history 9, 53.5: not among the 8 items of .* \(such as"):
        recommend_by_history(run, ["9", "53.5"])


def test_text_ids_of_a_history_work_too(textual: Path) -> None:
    assert recommend_by_history(textual, ["x53", "x55", "x57"], 1)["item"].tolist() == ["x51"]


def test_a_history_without_ratings_is_refused_by_a_run_on_values(tmp_path: Path) -> None:
    options = worlds.options(tmp_path, TRAIN, WITHHELD)
    for part, pairs in (("interactions", TRAIN), ("held_out", WITHHELD)):
        pq.write_table(worlds.table(pairs, [4.0] * len(pairs)), tmp_path / f"{part}.parquet")
    run = worlds.trained(tmp_path, *options, "--loss.name", "mse", "--batches.rows", "interaction")
    done = without_torch(str(run), "--history", "53")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.search(r"--loss.name mse, which needs ratings.*--user.*softmax or bpr", done.stderr)
