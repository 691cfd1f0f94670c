"""What a user is known to have is left out: all splits, and newer interactions on request."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import worlds
from trainer.cli import main
from trainer.dataset.vocabulary import FOLDER, HELD_OUT, open_vocabulary
from trainer.errors import DataError, UserError
from trainer.serving.recommend import recommend
from trainer.storage import arrays

TRAIN, WITHHELD = worlds.checkerboard()
ITEMS = set(range(worlds.FIRST_ITEM, worlds.FIRST_ITEM + 8))


def known(user: int) -> set[int]:
    return {item for owner, item in [*TRAIN, *WITHHELD] if owner == user}


def found(run: Path, user: int, **options) -> set[int]:
    return set(recommend(run, str(user), 100, **options)["item"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), "--run.epochs", "1")


def without_test_items(run: Path) -> None:
    """Make the run folder one of an older version, which kept no test items."""
    target = run / FOLDER
    meta = arrays.read_meta(target, "")
    for path in target.glob(f"{HELD_OUT}_*.npy"):
        path.unlink()
    (target / "meta.json").unlink()
    arrays.write_meta(target, {name: meta[name] for name in meta if name not in ("format", "files")})


def test_items_of_all_splits_are_left_out(tmp_path: Path) -> None:
    options = worlds.options(tmp_path, TRAIN, WITHHELD)
    run = worlds.trained(tmp_path, *options, "--data.validation_size", "0.2", "--run.epochs", "1")
    validated = open_vocabulary(run)
    assert validated.held_out is not None
    assert validated.held_out.lengths().tolist() == [1] * 16 + [0]
    for user, _ in WITHHELD:
        assert found(run, user) == ITEMS - known(user)
        assert found(run, user, keep_seen=True) == ITEMS


def test_what_a_user_disliked_is_left_out_where_it_was_trained_on(tmp_path: Path) -> None:
    rows = [(user, item, 5.0) for user, item in TRAIN] + [(user, item, 5.0) for user, item in WITHHELD]
    disliked = {user: min(ITEMS - known(user)) for user, _ in WITHHELD}
    rows += [(user, item, 1.0) for user, item in disliked.items()]
    text = "".join(f"{user},{item},{value}\n" for user, item, value in rows)
    (tmp_path / "ratings.csv").write_text(f"user_id,item_id,value\n{text}")
    files = ("--data.name", "files", "--data.interactions", str(tmp_path / "ratings.csv"))
    values = ("--data.min_value", "3", "--data.negatives", "use", "--data.split", "none")
    quick = ("--run.choose", "false", "--run.epochs", "1", "--data.cache", str(tmp_path / "cache"))
    run = worlds.trained(tmp_path, *files, *values, *quick)
    for user, item in disliked.items():
        assert found(run, user) == ITEMS - known(user) - {item}
        assert found(run, user, mark="test") == ITEMS - known(user)  # as an evaluation ranks


def test_the_test_split_is_ranked_and_marked_on_request(run: Path) -> None:
    for user, withheld in WITHHELD[:4]:
        items = recommend(run, str(user), 100, mark="test")
        assert set(items["item"]) == ITEMS - known(user) | {withheld}
        assert items["item"][items["test"]].tolist() == [withheld]
        assert items.attrs["held_out"] == 1
    with_seen = recommend(run, "1001", 100, keep_seen=True, mark="test")
    assert (set(with_seen["item"]), with_seen["test"].sum()) == (ITEMS, 1)
    with pytest.raises(UserError, match="--mark train: only items of the test split"):
        recommend(run, "1001", mark="train")


# Ids are numbers in the run; a file may spell them as text, and hold users and items unknown to the run.
@pytest.mark.parametrize("kind", ["csv", "parquet", "parquet of text"])
def test_items_of_newer_interactions_are_left_out_on_request(run: Path, tmp_path: Path, kind: str) -> None:
    user = worlds.FIRST_USER
    new = sorted(ITEMS - known(user))[:2]
    pairs = [(user, new[0]), (user, 999), (user, new[1]), (user, new[1]), (5, new[0] + 2), ("x", "y")]
    path = tmp_path / f"newer.{kind.split()[0]}"
    if kind == "csv":
        path.write_text("user_id,item_id\n" + "".join(f"{one},{two}\n" for one, two in pairs))
    else:
        columns = list(zip(*(pairs if "text" in kind else pairs[:-1]), strict=True))
        users, items = ([str(each) if "text" in kind else each for each in column] for column in columns)
        pq.write_table(pa.table({"user_id": users, "item_id": items}), path)
    items = recommend(run, str(user), 100, interactions=path)
    assert set(items["item"]) == ITEMS - known(user) - {*new}
    assert items.attrs["notes"] == []
    other = recommend(run, str(user + 1), 100, interactions=path)
    assert set(other["item"]) == ITEMS - known(user + 1)
    assert other.attrs["notes"] == [f"--interactions {path}: no item of the catalogue for user {user + 1}"]


def test_newer_interactions_need_no_other_column_of_the_training(tmp_path: Path) -> None:
    pairs = "".join(f"{user},{item},2,\n" for user, item in TRAIN)
    (tmp_path / "weighed.csv").write_text(
        f"user_id,item_id,quantity,timestamp\n{pairs}".replace(",\n", ",7\n")
    )
    files = ("--data.name", "files", "--data.interactions", str(tmp_path / "weighed.csv"))
    quick = ("--run.choose", "false", "--run.epochs", "1", "--data.cache", str(tmp_path / "cache"))
    run = worlds.trained(tmp_path, *files, "--data.weight_column", "quantity", "--data.split", "none", *quick)
    new = min(ITEMS - {item for user, item in TRAIN if user == 1001})
    (tmp_path / "newer.tsv").write_text(f"user_id\titem_id\n1001\t{new}\n")
    assert found(run, 1001) - found(run, 1001, interactions=tmp_path / "newer.tsv") == {new}


def test_faulty_newer_interactions_are_refused_in_one_line(run: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "newer.csv"
    path.write_text("person,item_id\n1001,53\n")
    command = ["recommend", str(run), "--user", "1001", "--interactions"]
    for arguments, words in (
        ([str(tmp_path / "gone.csv")], "gone.csv: no such file. Name an existing one"),
        ([str(path)], "user_id"),
        ([str(path), "--keep-seen"], "--keep-seen ranks items that the user has. Leave one of the two out"),
        ([str(path), "--mark", "test"], "--mark test ranks items that the user has"),
    ):
        capsys.readouterr()
        assert main([*command, *arguments]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert words in err
    with pytest.raises(DataError, match="user_id"):
        recommend(run, "1001", interactions=path)


def test_test_items_of_an_older_run_come_from_the_prepared_data(run: Path) -> None:
    without_test_items(run)
    assert open_vocabulary(run).held_out is None
    assert found(run, 1001) == ITEMS - known(1001)
    assert recommend(run, "1001", 100, mark="test")["test"].sum() == 1


def test_it_is_said_where_neither_an_older_run_nor_prepared_data_hold_them(run: Path, capsys) -> None:
    without_test_items(run)
    shutil.rmtree(run.parent / "cache")
    items = recommend(run, "1001", 100)
    withheld = dict(WITHHELD)[1001]
    assert set(items["item"]) == ITEMS - known(1001) | {withheld}
    (note,) = items.attrs["notes"]
    assert note.startswith(f"only training and validation items are left out: {run} is of an older version")
    with pytest.raises(UserError, match=r"--mark test: .* is of an older version and keeps no test"):
        recommend(run, "1001", mark="test")
    # The command that the note names helps.
    words = note.rpartition("python -m trainer ")[2].split()
    assert main(words) == 0
    assert found(run, 1001) == ITEMS - known(1001)
