"""Runs whose data have moved: the prepared form that stands, files named anew, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from tests import worlds
from trainer.cli import main
from trainer.config.resume import EVALUATED_WITH
from trainer.runs.data_digest import data_digests

TRAIN, WITHHELD = worlds.checkerboard()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on files in `tmp_path`/raw, prepared there too."""
    (tmp_path / "raw").mkdir()
    return worlds.trained(tmp_path, *worlds.options(tmp_path / "raw", TRAIN, WITHHELD), "--run.epochs", "2")


def evaluated(run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, float]:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)["model"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def remove_raw_files(folder: Path) -> None:
    for path in folder.glob("*.parquet"):
        path.unlink()


def test_a_run_is_evaluated_on_the_prepared_form_when_the_files_are_gone(
    run: Path, tmp_path: Path, capsys
) -> None:
    remove_raw_files(tmp_path / "raw")
    assert evaluated(run, capsys) == worlds.figures(run)


def test_files_that_have_moved_are_named_anew(run: Path, tmp_path: Path, capsys) -> None:
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "raw", moved)
    error = refused(capsys, "evaluate", str(run))
    assert error.startswith(f"error: {run}: its data cannot be prepared as for its training (--data.")
    assert "no such file" in error
    paths = [
        *("--data.interactions", str(moved / "interactions.parquet")),
        *("--data.held_out", str(moved / "held_out.parquet"), "--data.cache", str(tmp_path / "cache")),
    ]
    assert evaluated(run, capsys, *paths) == worlds.figures(run)
    assert evaluated(run, capsys, "--data.cache", str(moved / "cache")) == worlds.figures(run)


def test_other_data_under_the_new_name_are_refused(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "other").mkdir()
    other = worlds.options(tmp_path / "other", TRAIN[1:], WITHHELD)[2:]
    error = refused(capsys, "evaluate", str(run), *other)
    assert f"{run}: its data have changed since the training" in error


def test_advice_names_no_option_that_an_evaluation_lacks(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "raw" / "held_out.parquet").write_text("no parquet")
    shutil.rmtree(tmp_path / "raw" / "cache")
    for arguments in ([], ["--data.root", "elsewhere"], ["--sharding.kind", "row_wise", "--device", "cpu"]):
        error = refused(capsys, "evaluate", str(run), *arguments)
        named = {option.rstrip(".") for option in re.findall(r"--([a-z_.]+)", error.partition(". ")[2])}
        assert named <= {*EVALUATED_WITH, "data.name"}, error


def test_options_of_a_training_are_refused_by_an_evaluation(run: Path, capsys) -> None:
    assert "--model.dim: an evaluation has no such option." in refused(
        capsys, "evaluate", str(run), "--model.dim", "8"
    )


def test_how_ranks_share_tables_may_differ_in_an_evaluation(run: Path, capsys) -> None:
    assert evaluated(run, capsys, "--sharding.kind", "column_wise", "--backend", "gloo") == pytest.approx(
        worlds.figures(run)
    )


def test_a_warm_start_takes_the_prepared_form_when_the_files_are_gone(
    run: Path, tmp_path: Path, capsys
) -> None:
    remove_raw_files(tmp_path / "raw")
    again = tmp_path / "again"
    assert main(["train", "--from", str(run), "--run.dir", str(again)]) == 0
    # Retained ids need the data set without them as well as with them.
    options = ("--run.removed", "keep", "--run.dir", str(tmp_path / "third"))
    assert main(["train", "--from", str(again), *options]) == 0
    assert evaluated(tmp_path / "third", capsys) == worlds.figures(tmp_path / "third")
    shutil.rmtree(tmp_path / "raw" / "cache")
    error = refused(capsys, "train", "--from", str(run), "--run.dir", str(tmp_path / "new"))
    assert "--data.held_out" in error or "--data.interactions" in error
    assert "no such file. Name an existing one" in error
    assert not (tmp_path / "new").exists()


def test_numbers_have_a_digest_of_their_own(tmp_path: Path) -> None:
    one, other, none = (
        data_digests(worlds.dataset(tmp_path / str(number), [(1, 51), (2, 52)], [(1, 52)], items=items))
        for number, items in enumerate(
            [
                pa.table({"item_id": [51, 52], "price": [0.5, 1.5]}),
                pa.table({"item_id": [51, 52], "price": [0.5, 2.5]}),
                None,
            ]
        )
    )
    assert one["numbers"] != other["numbers"]
    assert one["attributes"] == other["attributes"] == none["attributes"]
    assert "numbers" not in none
