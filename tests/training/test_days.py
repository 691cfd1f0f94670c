"""A shop day by day: what a split by time holds out, what `--from` learns, and training on everything."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import worlds
from trainer.cli import main
from trainer.config.parser import parse_config, read_config
from trainer.dataset.dataset import Dataset, Interactions, open_dataset
from trainer.dataset.prepare import prepare_data

Row = tuple[int, int, int]
"""User, item, second."""
DAY = 86_400


def day(number: int) -> list[Row]:
    """What a shop sells on a day, counted from 1: two items of a colour to 12 customers, and one more a day.

    One of the two was new that day, the other is bought once more by whoever came the day before.
    """
    rows = []
    for user in range(12 + number):
        new, again = (user % 2 + 2 * step for step in (number, number - 1))
        rows += [(1000 + user, 50 + new), (1000 + user, 50 + again)]
    return [(user, item, number * DAY + place) for place, (user, item) in enumerate(rows)]


def pairs_of(days: Sequence[int]) -> set[tuple[int, int]]:
    return {(user, item) for number in days for user, item, _ in day(number)}


def shop(folder: Path, last: int, hold_out: bool = True) -> list[str]:
    """Options for the sales up to a day, written to one file; that day is held out, or nothing is."""
    users, items, seconds = zip(*(row for number in range(1, last + 1) for row in day(number)), strict=True)
    path = folder / "sales.parquet"
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": seconds}), path)
    split = ["temporal", "--data.test_size", str(share_of_day(last))] if hold_out else ["none"]
    data = ["--data.name", "files", "--data.interactions", str(path), "--data.cache", str(folder / "cache")]
    return [*data, "--data.split", *split]


def share_of_day(last: int) -> float:
    """The share of pairs that were new on the last day; half a pair less, as shares are rounded up."""
    count, before = len(pairs_of(range(1, last + 1))), len(pairs_of(range(1, last)))
    return (count - before - 0.5) / count


def raw(dataset: Dataset, split: Interactions) -> set[tuple[int, int]]:
    users, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    return {(users[user], items[item]) for user, item in zip(split.users, split.items, strict=True)}


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def news(run: Path) -> dict[str, int]:
    return json.loads((run / "metrics.json").read_text())["from"]["news"]


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on everything up to day 3, whose settings were measured on that day."""
    folder = tmp_path_factory.mktemp("yesterday")
    measured = worlds.trained(folder, *shop(folder, 3))
    run = folder / "all"
    assert main(["train", "--from", str(measured), "--data.split", "none", "--run.dir", str(run)]) == 0
    return run


@pytest.mark.parametrize("last", [2, 3, 4])
def test_a_split_by_time_holds_out_what_the_last_day_brought(tmp_path: Path, last: int) -> None:
    dataset = open_dataset(prepare_data(parse_config(shop(tmp_path, last)).data))
    before, today = pairs_of(range(1, last)), {(user, item) for user, item, _ in day(last)}
    assert raw(dataset, dataset.train) == before
    assert raw(dataset, dataset.test) == today - before
    # All but the customer of that day buy one item again: 12 + 2 - 1 on day 2, and so on.
    assert dataset.report["repeats_dropped"] == len(today & before) == 11 + last
    assert dataset.train.timestamps is not None
    assert dataset.test.timestamps is not None
    assert dataset.train.timestamps.max() < last * DAY <= dataset.test.timestamps.min()


def test_repeats_are_counted_in_what_a_training_prints(tmp_path: Path, capsys) -> None:
    worlds.trained(tmp_path, *shop(tmp_path, 3), "--run.epochs", "1")
    assert (
        "14 interactions in the time of the test part repeat what a user had before it: left out; "
        "--data.repeats keep counts them." in printed(capsys)
    )
    keep = ("--run.dir", str(tmp_path / "kept"), "--data.repeats", "keep", "--evaluation.seen", "keep")
    run = tmp_path / "kept"
    assert main(["train", *shop(tmp_path, 3), *worlds.QUICK, "--run.epochs", "1", *keep]) == 0
    text = printed(capsys)
    assert "repeat what a user had before it: counted, as --data.repeats keep asks." in text
    # 15 customers with two items each, of which the one of the day before is a repeat but for the newest.
    assert "60 training and 30 test interactions" not in text
    assert json.loads((run / "metrics.json").read_text())["users"] == 15
    assert main(["evaluate", str(run), "--seen", "mask"]) == 2
    assert "cannot be found while it is masked. Use --seen keep" in capsys.readouterr().err


def test_repeats_are_not_to_be_found_while_they_are_masked(tmp_path: Path, capsys) -> None:
    assert main(["train", *shop(tmp_path, 3), "--data.repeats", "keep"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --data.repeats keep: needs --evaluation.seen keep")
    assert error.count("\n") == 1


def test_a_day_that_is_held_out_teaches_nothing_and_that_is_said(
    yesterday: Path, tmp_path: Path, capsys
) -> None:
    run = tmp_path / "run"
    data = [*shop(tmp_path, 4), "--run.dir", str(run)]
    assert main(["train", "--from", str(yesterday), *data, "--run.epochs", "1"]) == 0
    new = len(pairs_of([4]) - pairs_of([1, 2, 3]))
    text = printed(capsys)
    assert (
        f"Warning: nothing new is trained on. What is new to this run, {new} interactions, is held out"
        in text
    )
    assert "then train on everything with --data.split none." in text
    assert "figures flatter" not in text
    trained = len(pairs_of([1, 2, 3]))
    assert news(run) == {"interactions": 0, "users": 0, "items": 0, "held_out": new, "trained": trained}


def test_a_day_that_is_trained_on_is_counted(yesterday: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    everything = [*shop(tmp_path, 4, hold_out=False), "--run.dir", str(run)]
    assert main(["train", "--from", str(yesterday), *everything, "--run.epochs", "1"]) == 0
    new, count = len(pairs_of([4]) - pairs_of([1, 2, 3])), len(pairs_of([1, 2, 3, 4]))
    assert new == 17  # 16 customers buy what is new, and the one who is new what was new the day before
    words = f"Trained on for the first time: {new} of {count} interactions, with 1 new user and 2 new items."
    assert words in printed(capsys)
    assert news(run) == {"interactions": 17, "users": 1, "items": 2, "held_out": 0, "trained": count}


def test_data_that_have_not_grown_are_pointed_out(yesterday: Path, tmp_path: Path, capsys) -> None:
    everything = [*shop(tmp_path, 3, hold_out=False), "--run.dir", str(tmp_path / "run")]
    assert main(["train", "--from", str(yesterday), *everything, "--run.epochs", "1"]) == 0
    assert (
        "Warning: nothing new is trained on. The data hold no interaction that this run was not trained on: "
        "name newer data, as with --data.interactions FILE." in printed(capsys)
    )


def test_a_run_on_everything_measures_nothing_and_says_so(yesterday: Path, capsys) -> None:
    report = json.loads((yesterday / "metrics.json").read_text())
    assert (report["split"], "model" in report, "users" in report) == ("none", False, False)
    assert main(["evaluate", str(yesterday)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {yesterday}: has no test part, as it was trained on every interaction")
    assert error.count("\n") == 1
    assert main(["recommend", str(yesterday), "--user", "1000", "--json"]) == 0
    items = [entry["item"] for entry in json.loads(capsys.readouterr().out)["items"]]
    assert not set(items) & {item for user, item in pairs_of([1, 2, 3]) if user == 1000}


def test_settings_for_everything_are_chosen_or_taken_from_a_run_that_measured(tmp_path: Path, capsys) -> None:
    data = (
        "--data.name synthetic --data.synthetic_users 200 --data.synthetic_interactions 4000 --device cpu "
        f"--run.epochs 2 --model.dim 8 --model.low_rank 0 --data.cache {tmp_path / 'cache'}"
    ).split()
    run, chosen, taken = (tmp_path / name for name in ("measured", "chosen", "taken"))
    assert main(["train", *data, "--data.test_size", "0.3", "--run.dir", str(run)]) == 0
    assert main(["train", *data, "--data.split", "none", "--run.dir", str(chosen)]) == 0
    text = printed(capsys)
    # Each of the 200 users' last interaction, of 4,000 that are trained on in the end.
    # The last interaction is known by its time, so that the kind of history is chosen, too.
    assert re.search(
        r"Chosen by ndcg@10 on a validation part of 200 users: model\.history \w+, model\.temp", text
    )
    assert "4,000 training interactions, all there are" in text
    assert "nothing was measured on a test part" in text
    everything = ("--data.split", "none", "--run.dir", str(taken))
    assert main(["train", "--config", str(run / "config.yaml"), *everything]) == 0
    assert "Chosen by" not in printed(capsys)
    assert read_config(taken / "config.yaml").model == read_config(run / "config.yaml").model


def test_a_validation_split_is_refused_where_everything_is_trained_on(capsys) -> None:
    assert main(["train", "--data.split", "none", "--data.validation_size", "0.1"]) == 2
    assert "--data.validation_size 0.1: --data.split none trains on every row" in capsys.readouterr().err
    assert main(["train", "--data.split", "none", "--data.test_size", "0.1"]) == 2
    assert "--data.test_size 0.1: has no effect here" in capsys.readouterr().err
    assert main(["train", "--data.split", "none", "--evaluation.split", "validation"]) == 2
    assert "--evaluation.split validation: --data.split none trains" in capsys.readouterr().err
