"""A small world in which impressions alone tell what users like, from files to recommendations."""

import csv
import json
from pathlib import Path

import pytest

from tests import worlds
from trainer.cli import main
from trainer.serving.recommend import recommend

USERS, ITEMS = range(16), range(8)
BOTH = (100, 101)
"""Items that everybody has. Four more users have those of a colour too, which tells that they are alike."""
TAKEN = [(user, item) for user in USERS for item in BOTH]
TAKEN += [(user, item) for user in range(90, 94) for item in (*BOTH, *ITEMS[user % 2 :: 2])]
SHOWN = [(user, item) for user in USERS for item in ITEMS if item % 2 != user % 2]
"""A user was shown the items of the other colour and took none: they are to come last."""


def write(path: Path, header: str, rows: list[tuple]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return str(path)


def options(folder: Path, *more: str) -> list[str]:
    taken = write(folder / "taken.csv", "user_id,item_id", TAKEN)
    fixed = (
        "--run.choose",
        "false",
        "--model.low_rank",
        "0",
        "--data.split",
        "none",
        "--model.temperature",
        "1",
    )
    files = ("--data.name", "files", "--data.interactions", taken, "--data.cache", str(folder / "cache"))
    return [*files, *fixed, *more]


def with_impressions(folder: Path, *more: str) -> list[str]:
    shown = write(folder / "shown.csv", "user_id,item_id", SHOWN)
    return options(folder, "--data.impressions", shown, "--data.negatives", "use", *more)


def right_first(run: Path) -> float:
    """Share of the colour's own items among the best four that a user does not have: 1/2 by chance."""
    found = [(user, item) for user in USERS for item in recommend(run, str(user), 4)["item"]]
    assert len(found) == 4 * len(USERS)
    return sum(user % 2 == item % 2 for user, item in found) / len(found)


BY_ROW = ("--batches.rows", "interaction", "--batches.size", "8")


@pytest.mark.parametrize("loss", [("softmax",), ("softmax", *BY_ROW), ("bpr", *BY_ROW)], ids=" ".join)
def test_what_was_shown_and_not_taken_comes_last_and_may_be_recommended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: tuple[str, ...]
) -> None:
    run = worlds.trained(tmp_path, *with_impressions(tmp_path), "--loss.name", *loss)
    assert "Of 64 impressions, 64 are used as explicit negatives." in capsys.readouterr().out
    assert right_first(run) == 1
    assert {*recommend(run, "0", 100)["item"]} == {*ITEMS}


def test_without_impressions_nothing_tells_the_colours_apart(tmp_path: Path) -> None:
    assert right_first(worlds.trained(tmp_path, *options(tmp_path))) < 0.7


def test_a_loss_that_fits_ones_and_zeros_fits_a_zero_to_impressions(tmp_path: Path) -> None:
    rated = write(tmp_path / "rated.csv", "user_id,item_id,value", [(*pair, 5) for pair in TAKEN])
    arguments = with_impressions(tmp_path, "--loss.name", "bce", *BY_ROW)
    run = worlds.trained(tmp_path, *arguments, "--data.interactions", rated, "--model.popularity_prior", "0")
    assert right_first(run) == 1


def test_a_run_with_impressions_is_evaluated_where_its_files_have_moved(tmp_path: Path, capsys) -> None:
    run = worlds.trained(tmp_path, *with_impressions(tmp_path, "--data.split", "random"))
    figures = json.loads((run / "metrics.json").read_text())["model"]
    (tmp_path / "moved").mkdir()
    moved = []
    for option, name in (("interactions", "taken.csv"), ("impressions", "shown.csv")):
        moved += [f"--data.{option}", str((tmp_path / name).rename(tmp_path / "moved" / name))]
    for arguments in ([], [*moved, "--data.cache", str(tmp_path / "anew")]):
        capsys.readouterr()
        assert main(["evaluate", str(run), "--json", *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["model"] == pytest.approx(figures)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("error: ").rstrip("\n")


def test_impressions_that_could_do_nothing_are_refused_with_what_helps(tmp_path: Path, capsys) -> None:
    arguments = with_impressions(tmp_path)
    dropped = [each for each in arguments if each not in ("--data.negatives", "use")]
    shown = str(tmp_path / "shown.csv")
    assert refused(capsys, "train", *dropped) == (
        f"--data.impressions {shown}: has no effect here. It needs --data.name files with "
        "--data.negatives use; or leave it out"
    )
    assert refused(capsys, "train", *arguments, "--loss.name", "mse", *BY_ROW) == (
        f"--data.impressions {shown}: needs --loss.name softmax or bpr or bce, as what was only shown has no "
        "value that --loss.name mse could fit"
    )
    (tmp_path / "shown.csv").write_text("user_id,item_id\n1\n")
    assert refused(capsys, "prepare", *arguments).startswith(f"{shown}:2: 1 field, expected 2")
    (tmp_path / "shown.csv").unlink()
    assert refused(capsys, "prepare", *arguments) == (
        f"--data.impressions {shown}: no such file. Name an existing one"
    )
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_impressions_are_other_data(tmp_path: Path, capsys) -> None:
    def prepared(*arguments: str) -> dict:
        capsys.readouterr()
        assert main(["prepare", "--json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    first = prepared(*with_impressions(tmp_path))
    assert first["impressions"] == {"used": 64, "read": 64} | dict.fromkeys(
        ("skipped", "unknown", "weightless", "late", "taken", "judged", "repeated"), 0
    )
    (tmp_path / "fewer").mkdir()
    fewer = write(tmp_path / "fewer" / "shown.csv", "user_id,item_id", [*SHOWN[:10], SHOWN[0], (5, 999)])
    second = prepared(*with_impressions(tmp_path), "--data.impressions", fewer)
    found = {name: count for name, count in second["impressions"].items() if count}
    assert found == {"used": 10, "read": 12, "unknown": 1, "repeated": 1}
    assert first["folder"] != second["folder"]
