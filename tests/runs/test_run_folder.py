"""A run and its data: moved and touched files are the same, changed ones are refused."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import worlds
from trainer.cli import main

TRAIN, WITHHELD = worlds.checkerboard()
VALUES = [1.0 + number % 5 for number in range(len(TRAIN))]
ITEMS = [51 + number for number in range(8)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run on them that is not finished."""
    folder = tmp_path_factory.mktemp("trained")
    data = [*worlds.options(folder, TRAIN, WITHHELD), "--data.items", str(folder / "items.parquet")]
    pq.write_table(worlds.table(TRAIN, VALUES), folder / "interactions.parquet")
    pq.write_table(worlds.table(WITHHELD, [1.0] * len(WITHHELD)), folder / "held_out.parquet")
    write_items(folder)
    options = ("--run.save_every", "30", "--model.item_features", "kind")
    worlds.trained(folder, *data, *options)
    return folder


def write_items(folder: Path, title: str = "title", kind: str = "kind") -> None:
    kinds = pa.array([[kind], *([f"kind {item % 3}"] for item in ITEMS[1:])], pa.list_(pa.string()))
    titles = [title, *(f"title {item}" for item in ITEMS[1:])]
    pq.write_table(pa.table({"item_id": ITEMS, "title": titles, "kind": kinds}), folder / "items.parquet")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run on data of its own, in the same folder."""
    for file in trained.glob("*.parquet"):
        shutil.copy(file, tmp_path)
    shutil.copytree(trained / "run", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path)))
    return tmp_path / "run"


def swap_last(pairs: worlds.Pairs) -> worlds.Pairs:
    """The same pairs, but for the items of the last two, which differ."""
    (one, first), (two, second) = pairs[-2:]
    return [*pairs[:-2], (one, second), (two, first)]


def write_held_out(folder: Path) -> None:
    pairs = swap_last(WITHHELD)
    pq.write_table(worlds.table(pairs, [1.0] * len(pairs)), folder / "held_out.parquet")


def write_values(folder: Path) -> None:
    pq.write_table(worlds.table(TRAIN, VALUES[::-1]), folder / "interactions.parquet")


CHANGES = {
    "held-out interactions": write_held_out,
    "training interactions": write_values,
    "attributes or titles": write_items,
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("command", ["evaluate", "compare", "resume"])
def test_changed_data_with_the_same_ids_are_refused(what, command, run, trained, capsys):
    if what == "attributes or titles":
        write_items(run.parent, title="another")
    else:
        CHANGES[what](run.parent)
    arguments = {
        "evaluate": ["evaluate", str(run)],
        "compare": ["evaluate", str(trained / "run"), "--compare", str(run)],
        "resume": ["train", "--run.dir", str(run)],
    }[command]
    if command == "resume":
        (run / "metrics.json").unlink()
    capsys.readouterr()
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"error: {run}: its data have changed since the training ({what}). Bring the files back as they "
        "were, or train anew\n"
    )


def test_files_that_are_moved_touched_or_written_anew_are_the_same(run, capsys):
    expected = worlds.figures(run)
    for file in run.parent.glob("*.parquet"):
        pq.write_table(pq.read_table(file), file, compression="none")
        os.utime(file, (1, 1))
    for compared in ([], ["--compare", str(run)]):
        capsys.readouterr()
        assert main(["evaluate", str(run), "--json", *compared]) == 0
        assert json.loads(capsys.readouterr().out)["model"] == expected
    (run / "metrics.json").unlink()
    assert main(["train", "--run.dir", str(run)]) == 0
    assert worlds.figures(run) == expected


def test_the_data_of_a_run_without_digests_are_compared_by_ids(run, capsys):
    (run / "data.json").unlink()
    write_held_out(run.parent)
    assert main(["evaluate", str(run)]) == 0
    pairs = TRAIN[:-1]
    pq.write_table(worlds.table(pairs, VALUES[:-1]), run.parent / "interactions.parquet")
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    assert f"{run}: its data have changed since the training (users, items or" in capsys.readouterr().err


def test_digests_that_cannot_be_read_are_refused(run, capsys):
    (run / "data.json").write_text("")
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {run / 'data.json'}: cannot be read")
