"""Lists of all users: those of `recommend` row by row, at any number of ranks, and after an interruption."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests import worlds
from tests.batch_lists.conftest import ITEMS, USERS
from tests.distributed.ranks import run_on_ranks
from trainer.batch_lists.all_lists import recommend_all
from trainer.batch_lists.lists_folder import MANIFEST, ListsFolder
from trainer.cli import main
from trainer.dataset.vocabulary import open_vocabulary
from trainer.errors import UserError
from trainer.runs.checkpoint_store import newest
from trainer.serving import embed
from trainer.serving.recommend import recommend
from trainer.serving.vector_cache import FOLDER, Vectors, save_vectors


def written(folder: Path) -> pd.DataFrame:
    return pd.concat([pq.read_table(path).to_pandas() for path in sorted(folder.glob("part-*"))])


def one_by_one(run: Path, k: int, users: list[int] | None = None, **options) -> pd.DataFrame:
    """The same lists from `recommend`, users in row order."""
    found = []
    for user in users or open_vocabulary(run).user_ids.to_pylist():
        one = recommend(run, str(user), k, **options)
        one.insert(0, "user", user)
        one.insert(1, "rank", range(1, len(one) + 1))
        found.append(one.drop(columns="title"))
    return pd.concat(found)


OPTIONS = {
    "plain": {},
    "marked": {"mark": "test"},
    "seen": {"keep_seen": True},
    "filtered": {"where": ["colours=red", "size<4"], "deny": [worlds.FIRST_ITEM + 2]},
    "limited": {"at_most": {"colours": 2, "size": 1}, "keep_seen": True},
}


@pytest.mark.parametrize("k", [3, 100])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_all_lists_are_those_of_one_user_at_a_time(run: Path, tmp_path: Path, options: dict, k: int) -> None:
    done = recommend_all(run, tmp_path / "lists", k, users_per_part=7, **options)
    found = written(tmp_path / "lists").reset_index(drop=True)
    expected = one_by_one(run, k, **options).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=0, atol=1e-5)
    assert done is not None
    assert (done.users, done.rows, done.kept) == (USERS, len(expected), 0)
    assert len(list((tmp_path / "lists").glob("part-*"))) == 5  # 32 users, 7 a part


def test_ordered_histories_go_on_with_test_items_as_for_one_user(ordered: Path, tmp_path: Path) -> None:
    for name, options in (("served", {}), ("marked", {"mark": "test"})):
        recommend_all(ordered, tmp_path / name, 5, users_per_part=10, **options)
        found = written(tmp_path / name)
        users = found["user"].unique()[::5].tolist()
        expected = one_by_one(ordered, 5, users, **options).reset_index(drop=True)
        found = found[found["user"].isin(users)].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=0, atol=1e-5)


def test_towers_give_what_cached_vectors_do(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / FOLDER)
    monkeypatch.setattr(embed, "CACHED_BYTES", 0)
    recommend_all(copy, tmp_path / "towers", 5, users_per_part=7)
    assert not (copy / FOLDER).exists()
    recommend_all(run, tmp_path / "cache", 5, users_per_part=7)
    found, expected = written(tmp_path / "towers"), written(tmp_path / "cache")
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-5)


def test_equal_scores_are_ranked_in_each_users_own_order(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    queries, items = np.ones((USERS, 3), np.float32), np.ones((ITEMS, 3), np.float32)
    items[::3] = 0.5  # two scores for all
    save_vectors(copy, newest(copy), Vectors(queries, items, items[:, :0]))
    recommend_all(copy, tmp_path / "lists", 6, keep_seen=True)
    found = written(tmp_path / "lists").reset_index(drop=True)
    expected = one_by_one(copy, 6, keep_seen=True).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert found.groupby("user")["item"].apply(tuple).nunique() > 5


def test_figures_from_marked_lists_are_those_of_the_evaluation(run: Path, tmp_path: Path) -> None:
    recommend_all(run, tmp_path / "lists", 10, mark="test")
    found = written(tmp_path / "lists")
    gains = found["test"] / np.log2(found["rank"] + 1)
    # Everyone has one item in the test split, for which the best gain is 1.
    assert gains.groupby(found["user"]).sum().mean() == pytest.approx(
        worlds.figures(run)["ndcg@10"], abs=1e-6
    )


def test_files_have_raw_ids_of_their_own_type_and_are_read_as_one_table(run: Path, tmp_path: Path) -> None:
    recommend_all(run, tmp_path / "lists", 2, users_per_part=20)
    table = pq.read_table(tmp_path / "lists")
    assert [str(field.type) for field in table.schema] == ["int64", "int32", "int64", "float"]
    assert table.column_names == ["user", "rank", "item", "score"]
    metadata = pq.read_metadata(tmp_path / "lists" / "part-00001.parquet")
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    manifest = json.loads((tmp_path / "lists" / MANIFEST).read_text())
    assert manifest["complete"]
    assert [part["rows"] for part in manifest["files"].values()] == [40, 24]


def test_an_interrupted_start_is_gone_on_with(run: Path, tmp_path: Path, monkeypatch) -> None:
    recommend_all(run, tmp_path / "whole", 4, users_per_part=8)
    write, out = ListsFolder.write, tmp_path / "lists"

    def interrupted(self: ListsFolder, number: int, columns: dict) -> None:
        if number == 2:
            (self.path / ".part-00002.1.partial.parquet").write_text("cut off")
            raise KeyboardInterrupt
        write(self, number, columns)

    with monkeypatch.context() as patch:
        patch.setattr(ListsFolder, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recommend_all(run, out, 4, users_per_part=8)
    assert not json.loads((out / MANIFEST).read_text())["complete"]
    damaged = out / "part-00001.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 1
    damaged.write_bytes(content)
    kept = (out / "part-00000.parquet").stat().st_ino
    done = recommend_all(run, out, 4, users_per_part=8)
    assert done is not None
    assert (done.kept, (out / "part-00000.parquet").stat().st_ino) == (8, kept)
    assert sorted(path.name for path in out.iterdir()) == [
        MANIFEST,
        *(f"part-0000{n}.parquet" for n in range(4)),
    ]
    pd.testing.assert_frame_equal(written(out), written(tmp_path / "whole"))


def test_folders_of_other_lists_and_of_other_files_are_refused(
    run: Path, ordered: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lists"
    recommend_all(run, out, 4)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for way, message in (
        (lambda: recommend_all(run, out, 5), "holds lists with another k (4, not 5). Name another folder"),
        (lambda: recommend_all(run, out, 4, keep_seen=True), "with another keep_seen (none, not True)"),
        (lambda: recommend_all(run, out, 4, where=["colours=red"]), "with another left_out_items (0 of"),
        (lambda: recommend_all(run, out, 4, users=["1001"]), "with another users (32 of"),
        (lambda: recommend_all(ordered, out, 4), "of another run or checkpoint ("),
        (lambda: recommend_all(run, run, 4), "holds other files than lists. Name another folder, or remove"),
    ):
        with pytest.raises(UserError, match=r"^--out ") as raised:
            way()
        assert message in str(raised.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_lists_of_some_users_are_in_row_order_and_unknown_ones_are_named(
    run: Path, tmp_path: Path, capsys
) -> None:
    users = tmp_path / "users.csv"
    users.write_text("user_id,n\n1009,1\n7,2\n1003,3\n1009,4\n")
    capsys.readouterr()
    arguments = "--users", str(users), "--out", str(tmp_path / "some"), "-k", "3"
    assert main(["recommend", str(run), *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == f"note: --users: 1 of 3 ids not among the 32 users of {run}: 7\n"
    assert out.startswith(f"{tmp_path / 'some'}: lists of 2 users, 6 rows (")
    recommend_all(run, tmp_path / "all", 3)
    every = written(tmp_path / "all")
    rows = open_vocabulary(run).user_ids.to_pylist()
    expected = every[every["user"].isin([1003, 1009])]
    found = written(tmp_path / "some")
    assert found["user"].drop_duplicates().tolist() == sorted([1003, 1009], key=rows.index)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))
    with pytest.raises(UserError, match=r"--users: 2 of 2 ids not among .*: 7, 8\. Name users such as"):
        recommend_all(run, tmp_path / "none", 3, users=["7", 8])


CAPS = None, 9


def lists_on_ranks(world, run: Path, out: Path) -> list[bool]:
    done = (recommend_all(run, out / str(cap), 4, users_per_part=5, cap=cap, world=world) for cap in CAPS)
    return [each is not None for each in done]


@pytest.mark.distributed
def test_two_ranks_write_the_rows_of_one(run: Path, tmp_path: Path) -> None:
    assert run_on_ranks(2, lists_on_ranks, run, tmp_path / "two") == [[True, True], [False, False]]
    for cap in CAPS:
        one, two = tmp_path / "one" / str(cap), tmp_path / "two" / str(cap)
        recommend_all(run, one, 4, users_per_part=5, cap=cap)
        pd.testing.assert_frame_equal(written(two), written(one), rtol=0, atol=1e-6)
        assert json.loads((two / MANIFEST).read_text())["complete"]


@pytest.mark.parametrize("options", [{}, {"at_most": {"colours": 2}}], ids=["plain", "limited"])
@pytest.mark.parametrize("cap", [1, 6, 40])
def test_under_a_cap_users_take_turns_in_row_order(
    run: Path, tmp_path: Path, cap: int, options: dict
) -> None:
    k, counts, expected = 4, dict.fromkeys(range(worlds.FIRST_ITEM, worlds.FIRST_ITEM + ITEMS), 0), []
    colours = open_vocabulary(run).item_attributes["colours"].to_pylist()
    values = dict(zip(open_vocabulary(run).item_ids.to_pylist(), colours, strict=True))
    for user in open_vocabulary(run).user_ids.to_pylist():
        own: list[int] = []
        for item in recommend(run, str(user), ITEMS)["item"]:
            full = options and any(sum(value in values[each] for each in own) >= 2 for value in values[item])
            if len(own) < k and counts[item] < cap and not full:
                own.append(item)
                counts[item] += 1
        expected += [(user, item) for item in own]
    out = tmp_path / "lists"
    recommend_all(run, out, k, cap=cap, users_per_part=9, **options)
    found = written(out)
    assert list(zip(found["user"], found["item"], strict=True)) == expected
    (out / "part-00001.parquet").unlink()
    (out / "part-00003.parquet").unlink()
    recommend_all(run, out, k, cap=cap, users_per_part=9, **options)
    pd.testing.assert_frame_equal(written(out), found)
