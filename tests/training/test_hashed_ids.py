"""Hashed ids from end to end: vectors by hand, collisions, and new ids, for which tables do not grow."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import worlds
from trainer.cli import main
from trainer.errors import UserError
from trainer.runs.run_folder import open_run
from trainer.serving.recommend import recommend
from trainer.storage.id_hashes import collisions, hashed_bags, hashed_rows
from trainer.storage.tie_hashes import tie_hashes

TRAIN, WITHHELD = worlds.checkerboard()
ROWS = "40"
"""More than the 16 users and 8 items, of which some share a row all the same."""
HASHED = ("--model.hashed_rows", ROWS)
FROZEN = ("--optimizer.learning_rate", "1e-12", "--optimizer.table_learning_rates", "{}")
"""Options under which nothing moves."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hashed")
    return worlds.trained(folder, *worlds.options(folder, TRAIN, WITHHELD), *HASHED)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Every table of a run, whole, by name."""
    towers = open_run(run).tower_pairs[0].towers
    tables = [*towers.query.embeddings.embedding_bags.items()]
    tables += towers.candidate.embeddings.embedding_bags.items()
    return {name: table.weight.detach() for name, table in tables}


def of_ids(table: torch.Tensor, ids: list[int] | list[str]) -> torch.Tensor:
    """Vectors of raw ids, by hand: the sum of two rows over the root of two."""
    first, second = hashed_rows(pa.array(ids), int(ROWS)).T
    return (table[torch.from_numpy(first)] + table[torch.from_numpy(second)]) / 2**0.5


def scores(run: Path, user: str | int) -> dict[int, float]:
    """The score of every item for a user, known or not, from the tables alone."""
    tables, items = weights(run), open_run(run).vocabulary.item_ids.to_pylist()
    query = of_ids(tables["user"], [str(user)])
    cosines = torch.nn.functional.cosine_similarity(query, of_ids(tables["item"], items))
    biases = tables["item_bias"][: len(items)].mean(1)  # one row an item
    return dict(zip(items, (cosines / 0.2 + biases).tolist(), strict=True))


def served(run: Path, user: str) -> dict[int, float]:
    found = recommend(run, user, 100, keep_seen=True)
    return dict(zip(found["item"], found["score"], strict=True))


def test_tables_of_ids_have_the_rows_asked_for_and_a_reserved_one(run: Path) -> None:
    assert {name: tuple(table.shape) for name, table in weights(run).items()} == {
        "user": (41, 8),
        "item": (41, 8),
        "item_bias": (9, 4),
    }


def test_a_vector_is_the_sum_of_two_rows_over_the_root_of_two(run: Path) -> None:
    for user in (1001, 1016):
        assert served(run, str(user)) == pytest.approx(scores(run, user), abs=1e-5)


def test_the_checkerboard_is_learned_through_hashed_rows(run: Path) -> None:
    assert worlds.figures(run)["ndcg@10"] > 0.9


def test_rows_that_no_id_looks_up_are_zero(run: Path) -> None:
    tables, used = weights(run), hashed_rows(pa.array([user for user, _ in WITHHELD]), int(ROWS))
    unused = np.setdiff1d(np.arange(41), used)
    assert tables["user"][unused].abs().max() == 0
    assert tables["user"][np.unique(used)].abs().sum(1).min() > 0


def test_collisions_are_printed_before_the_training_and_kept_with_its_figures(tmp_path, capsys) -> None:
    options = [*worlds.options(tmp_path, TRAIN, WITHHELD), "--model.hashed_rows", "5"]
    run = worlds.trained(tmp_path, *options, "--run.epochs", "1")
    printed = " ".join(capsys.readouterr().out.split())
    # 16 users are hashed into 10 pairs of rows, so that most share theirs.
    users = np.sort(hashed_rows(pa.array(range(1001, 1017)), 5), axis=1).tolist()
    shared = sum(users.count(pair) > 1 for pair in users)
    assert f"user ids: 16 in 5 rows by two hashes; {shared} share both rows with another;" in printed
    assert "a row has 6.4 ids on average. item ids: 8 in 5 rows" in printed
    assert printed.index("user ids") < printed.index("epoch 1")
    hashed = json.loads((run / "metrics.json").read_text())["hashed"]
    assert hashed["user"] == {"ids": 16, "rows": 5, "sharing_both": shared, "ids_per_row": 6.4}
    assert hashed["item"]["ids_per_row"] == 16 / 5


def test_a_user_who_is_new_gets_items_by_hashed_rows_and_is_told_who_shares_them(run: Path, capsys) -> None:
    known = [str(user) for user, _ in WITHHELD]
    new = sharing_user(known)
    own = set(hashed_rows(pa.array([new]), int(ROWS))[0].tolist())
    sharing = sum(bool(own & set(pair)) for pair in hashed_rows(pa.array(known), int(ROWS)).tolist())
    assert served(run, new) == pytest.approx(scores(run, new), abs=1e-5)
    capsys.readouterr()
    assert main(["recommend", str(run), "--user", new, "-k", "3"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 4
    assert shown.err == (
        f"note: --user {new}: not among the 16 users of {run}. Ranked by the two rows of the hashed id, of "
        f"which {sharing} known users share at least one; with items of this user, --history is better\n"
    )


def sharing_user(known: list[str]) -> str:
    """An id that is not known and shares rows with two known ones or more."""
    bags = hashed_bags(pa.array(known), int(ROWS))
    for number in range(2000, 3000):
        rows = hashed_rows(pa.array([str(number)]), int(ROWS))[0]
        if np.isin(bags.values, rows).sum() > 2:
            return str(number)
    raise AssertionError("no such id")


def test_a_new_user_with_closed_form_histories_and_attributes_has_none_of_them(tmp_path) -> None:
    options = [*worlds.options(tmp_path, TRAIN, WITHHELD), *HASHED, "--model.low_rank", "4"]
    run = worlds.trained(tmp_path, *options, "--model.history", "true")
    # All items have the same closed-form score for someone without items: that of nothing.
    assert served(run, "2000") == pytest.approx(scores(run, "2000"), abs=1e-5)


def test_items_that_a_new_user_has_bought_since_are_left_out(run: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.csv"
    newer.write_text("user_id,item_id\n2000,51\n2000,53\n1001,54\n")
    found = recommend(run, "2000", 100, interactions=newer)
    assert sorted(found["item"]) == [52, 54, 55, 56, 57, 58]
    assert len(found.attrs["notes"]) == 1
    other = recommend(run, "2001", 100, interactions=newer)
    assert len(other) == 8
    assert other.attrs["notes"][1] == f"--interactions {newer}: no item of the catalogue for user 2001"


def test_equal_scores_of_a_new_user_are_in_the_order_of_their_hashes(tmp_path: Path) -> None:
    options = [*worlds.options(tmp_path, TRAIN, WITHHELD), *HASHED, "--model.item_bias", "false"]
    run = worlds.trained(tmp_path, *options)
    used = hashed_rows(pa.array([user for user, _ in WITHHELD]), int(ROWS))
    # An id neither of whose rows was trained has a vector of zeros, and nothing tells items apart.
    new = next(
        str(number)
        for number in range(2000, 9000)
        if not np.isin(hashed_rows(pa.array([str(number)]), int(ROWS)), used).any()
    )
    found = recommend(run, new, 100)
    assert found["score"].tolist() == [0.0] * 8
    hashes, first = tie_hashes(pa.array(found["item"].tolist())), tie_hashes(pa.array([new])) % 32
    places = hashes - first * np.uint64(2**64 // 32)
    assert places.tolist() == sorted(places.tolist())


def test_a_new_user_has_no_test_items_to_be_marked(run: Path) -> None:
    with pytest.raises(UserError, match=r"--mark test: user 2000 is new to .* and has no test items"):
        recommend(run, "2000", 3, mark="test")


def test_without_hashed_ids_of_users_a_new_one_is_refused(tmp_path: Path) -> None:
    options = [*worlds.options(tmp_path, TRAIN, WITHHELD), *HASHED, "--model.history", "true"]
    run = worlds.trained(tmp_path, *options, "--model.user_id", "false", "--run.epochs", "1")
    with pytest.raises(UserError, match="--user 2000: not among the 16 users"):
        recommend(run, "2000", 3)


def grown(folder: Path) -> list[str]:
    """The same pairs with 4 users and 2 items more, in another order."""
    folder.mkdir()
    train, withheld = worlds.checkerboard(20, 10)
    return worlds.options(folder, train[::-1], withheld)


def test_a_training_from_a_run_takes_tables_over_whole_and_new_ids_change_no_shape(
    run: Path, tmp_path: Path, capsys
) -> None:
    later = tmp_path / "later"
    frozen = [*FROZEN, "--run.epochs", "1", "--run.dir", str(later)]
    capsys.readouterr()
    assert main(["train", "--from", str(run), *grown(tmp_path / "data"), *frozen]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "16 of 16 users known, 4 new, 0 dropped; 8 of 8 items known, 2 new" in printed
    before, after = weights(run), weights(later)
    assert {name: len(table) for name, table in after.items()} == {"user": 41, "item": 41, "item_bias": 11}
    for name in ("user", "item"):
        trained = before[name].abs().sum(1) > 0
        torch.testing.assert_close(after[name][trained], before[name][trained], rtol=0, atol=1e-6)
        # Rows that only new ids look up start as in any training; nobody looks up the others.
        ids = open_run(later).vocabulary
        used = hashed_rows(ids.user_ids if name == "user" else ids.item_ids, int(ROWS))
        fresh = np.setdiff1d(used, np.flatnonzero(trained.numpy()))
        assert len(fresh) > 0
        assert after[name][fresh].abs().sum(1).min() > 0
        assert after[name][np.setdiff1d(np.flatnonzero(~trained.numpy()), used)].abs().sum() == 0
    # Items are rows in another order now, and each known one keeps its bias.
    then, now = (open_run(each).vocabulary.item_ids.to_pylist() for each in (run, later))
    assert then != now[: len(then)]
    for row, item in enumerate(then):
        assert after["item_bias"][now.index(item)].tolist() == pytest.approx(
            before["item_bias"][row].tolist(), abs=1e-6
        )


@pytest.mark.parametrize("rows", ["41", "null"])
def test_a_training_from_a_run_with_other_rows_is_refused(
    run: Path, tmp_path: Path, capsys, rows: str
) -> None:
    shown = "None" if rows == "null" else rows
    command = ["train", "--from", str(run), "--model.hashed_rows", rows, "--run.dir", str(tmp_path / "later")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --model.hashed_rows {shown}: {run} has 40")
    assert error.count("\n") == 1
    assert not (tmp_path / "later").exists()


def test_a_run_is_not_resumed_with_other_rows(tmp_path: Path, capsys) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), *HASHED, "--run.epochs", "1")
    (run / "metrics.json").unlink()
    assert main(["train", "--run.dir", str(run), "--model.hashed_rows", "41"]) == 2
    assert f"--model.hashed_rows 41: the run in {run} has 40" in capsys.readouterr().err


@pytest.mark.parametrize("bias", ["true", "false"])
def test_users_and_items_that_are_gone_are_retained_with_hashed_ids_too(tmp_path: Path, bias: str) -> None:
    first, later = tmp_path / "first", tmp_path / "later"
    first.mkdir()
    fewer = [pair for pair in TRAIN if pair[0] > 1002 and pair[1] < 58]
    options = [*HASHED, "--model.item_bias", bias]
    run = worlds.trained(first, *worlds.options(first, TRAIN, WITHHELD), *options)
    later.mkdir()
    data = worlds.options(later, fewer, [pair for pair in WITHHELD if pair[0] > 1002 and pair[1] < 58])
    kept = ["--run.removed", "keep", *FROZEN, "--run.dir", str(later / "run")]
    assert main(["train", "--from", str(run), *data, *kept]) == 0
    ids = open_run(later / "run").vocabulary
    assert (sorted(ids.user_ids.to_pylist()), ids.item_ids.to_pylist()[-1]) == ([*range(1001, 1017)], 58)
    assert served(later / "run", "1001") == pytest.approx(served(run, "1001"), abs=1e-4)


def test_a_plan_counts_the_rows_two_lookups_an_id_and_their_traffic(capsys) -> None:
    command = ["plan", "--rows", "user=2e6", "--rows", "movie=1e5", "--dim", "64", "--world-size", "4"]
    command += ["--sharding.kind", "row_partitioned", "--hardware", "cpu", "--batches.size", "1024"]
    assert main([*command, "--model.hashed_rows", "100000"]) == 0
    printed = capsys.readouterr().out
    assert "user ids: 2,000,000 in 100,000 rows by two hashes; about 800 share both rows" in printed
    assert "a row has 40 ids on average" in " ".join(printed.split())
    plans = {}
    for name, options in (("plain", []), ("hashed", ["--model.hashed_rows", "100000"])):
        assert main([*command, "--sharding.lookup", "torchrec", "--json", *options]) == 0
        plans[name] = json.loads(capsys.readouterr().out)
    plain, hashed = ({table["name"]: table for table in plan["tables"]} for plan in plans.values())
    rows = {name: table["rows"] for name, table in hashed.items()}
    assert rows == {"user": 100_001, "movie": 100_001, "movie_bias": 100_000}
    assert (plain["user"]["lookups"], hashed["user"]["lookups"]) == (1024, 2048)
    assert hashed["movie"]["lookups"] == 2 * plain["movie"]["lookups"]
    assert hashed["movie_bias"]["lookups"] == plain["movie_bias"]["lookups"]
    # A rank sends each of 3 others the second id of its bags: a quarter of them is on each rank.
    bags = (1024 + plain["movie"]["lookups"]) / 4
    more = [after["bytes_sent"] - before["bytes_sent"] for before, after in zip_ranks(plans)]
    assert more == pytest.approx([3 * bags * 8 / 4] * 4, abs=2)


def zip_ranks(plans: dict) -> list[tuple[dict, dict]]:
    return list(zip(plans["plain"]["ranks"], plans["hashed"]["ranks"], strict=True))


def test_a_plan_of_data_has_hashed_rows_whatever_sizes_are_given(tmp_path: Path, capsys) -> None:
    options = [*worlds.options(tmp_path, TRAIN, WITHHELD), *HASHED, "--json"]
    for sizes, bias in (([], 9), (["--rows", "item=1000", "--rows", "user_history=9"], 1000)):
        history = ["--model.history", "true"]
        assert main(["plan", *options, *history, *sizes]) == 0
        tables = {table["name"]: table for table in json.loads(capsys.readouterr().out)["tables"]}
        assert {name: tables[name]["rows"] for name in ("user", "item", "item_bias")} == {
            "user": 41,
            "item": 41,
            "item_bias": bias,
        }
        assert (tables["user"]["pooling_factor"], tables["item"]["pooling_factor"]) == (2, 2)


def test_the_ids_of_a_world_collide_as_counted_by_hand() -> None:
    ids = [user for user, _ in WITHHELD]
    pairs = [frozenset(pair) for pair in hashed_rows(pa.array(ids), 5).tolist()]
    alone = sum(pairs.count(pair) == 1 for pair in pairs)
    assert collisions(hashed_bags(pa.array(ids), 5)).sharing_both == 16 - alone
