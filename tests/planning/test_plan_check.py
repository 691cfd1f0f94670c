"""Plans read from files: followed exactly, or refused with the first difference."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import layouts, plans, worlds
from trainer.cli import main
from trainer.errors import ConfigError
from trainer.model.towers import TwoTowers
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import KNOWN, Cluster, named_hardware
from trainer.planning.plan import Plan, open_plan, save_plan
from trainer.planning.plan_check import check_plan, partitions_of
from trainer.planning.planner import make_plan
from trainer.sharding.torchrec_plan import sharding_plan
from trainer.training import train

TABLES = {"user": (10, 8), "item": (6, 8)}
KINDS = ("table_wise", "column_wise", "table_column_wise", "data_parallel")


def check(
    plan: Plan,
    tables: dict[str, tuple[int, int]] = TABLES,
    cluster: Cluster | None = None,
    optimizer: str = "adagrad",
) -> None:
    cluster = cluster or Cluster(named_hardware("cpu"), 2, 2)
    check_plan(plan, tables, place="plan.json", optimizer=optimizer, cluster=cluster)


def towers(cut: dict[str, int] | None = None) -> TwoTowers:
    return TwoTowers({"user": 10}, {"item": 6}, 8, partitions=cut)


def saved(folder: Path, cut: dict[str, int] | None = None, sharding: str = "table_wise") -> Path:
    save_plan(layouts.planned(towers(cut), sharding, 2, "adagrad"), folder / "plan.json")
    return folder / "plan.json"


@pytest.mark.parametrize("sharding", KINDS)
def test_a_plan_from_its_file_is_the_same_to_torchrec(sharding, tmp_path):
    plan = layouts.planned(towers(), sharding, 2, "adagrad")
    save_plan(plan, tmp_path / "plan.json")
    opened = open_plan(tmp_path / "plan.json")
    check(opened)
    one, other = (sharding_plan(each, towers(), "cpu", 2).plan for each in (plan, opened))
    assert str(one) == str(other)
    assert set(one) == {"query.embeddings", "candidate.embeddings"}


def test_the_parts_of_a_cut_table_are_whole_tables_to_torchrec(tmp_path):
    plan = open_plan(saved(tmp_path, {"user": 3}))
    check(plan)
    assert partitions_of(plan) == {"user": 3}
    parts = sharding_plan(plan, towers({"user": 3}), "cpu", 2).plan["query.embeddings"]
    for number, rows in enumerate((4, 4, 2)):
        part = parts[f"user:{number}"]
        (shard,) = part.sharding_spec.shards
        assert (part.sharding_type, shard.shard_offsets, shard.shard_sizes) == (
            "table_wise",
            [0, 0],
            [rows, 8],
        )
        assert shard.placement.rank() == plan.tables[0].shards[number].rank


def edited(change: Callable[[dict[str, Any]], None], path: Path) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def shard(content: dict[str, Any], number: int = 0) -> dict[str, Any]:
    return content["tables"][0]["shards"][number]


def moved(content: dict[str, Any], number: int, row: int, rows: int) -> None:
    shard(content, number).update(row_offset=row, rows=rows)


def halved(table: dict[str, Any]) -> dict[str, Any]:
    """The other half of a table's columns, the first being left in its only shard."""
    (whole,) = table["shards"]
    whole["columns"] = table["dim"] // 2
    return whole | {"column_offset": table["dim"] // 2}


def for_three(content: dict[str, Any]) -> None:
    content["ranks"].append(content["ranks"][1] | {"rank": 2})
    content.update(world_size=3, local_world_size=3)


REFUSALS = [
    (lambda plan: for_three(plan), "a plan for 3 ranks, and there are 2. Start 3, or plan anew"),
    (lambda plan: plan["tables"].pop(), "has no table item, which the model has"),
    (lambda plan: plan["tables"][0].update(name="person"), "has no table user, which the model has"),
    (
        lambda plan: plan["tables"].append(plan["tables"][0] | {"name": "extra"}),
        "has a table extra, which the model has not",
    ),
    (lambda plan: plan["tables"][0].update(rows=9), "user has rows 9, the model's has 10"),
    (lambda plan: plan["tables"][0].update(dim=16), "user has dim 16, the model's has 8"),
    (lambda plan: plan["tables"][0].update(dtype="fp16"), "user is of fp16, the model's of fp32"),
    (lambda plan: plan["tables"][0].update(kernel="dense"), "user has kernel dense; adagrad on cpu under"),
    (lambda plan: plan["tables"][0].update(kernel="fused_uvm_caching"), "user has kernel fused_uvm_caching;"),
    (lambda plan: plan["tables"][0].update(sharding="row_wise"), "user is row_wise: .* not on CPU"),
    (lambda plan: shard(plan).update(rank=2), "user lies on rank 2, and ranks go to 1"),
    (lambda plan: shard(plan, 1).update(row_offset=5), "the shards of user leave gaps in it or overlap"),
    (lambda plan: shard(plan, 1).update(row_offset=3), "the shards of user leave gaps in it or overlap"),
    (lambda plan: shard(plan, 2).update(columns=4), "the shards of user leave gaps in it or overlap"),
    (lambda plan: plan["tables"][0]["shards"].pop(), "the shards of user leave gaps in it or overlap"),
    # 5, 4 and 1 of 10 rows leave no gap, but an id is found by dividing by 4.
    (
        lambda plan: (shard(plan).update(rows=5), shard(plan, 1).update(row_offset=5), moved(plan, 2, 9, 1)),
        "user is row_partitioned, which needs equal blocks of rows, the last one smaller",
    ),
    (
        lambda plan: plan["tables"][1]["shards"].append(halved(plan["tables"][1])),
        "item is table_wise, which needs one shard",
    ),
]


@pytest.mark.parametrize(("change", "words"), REFUSALS)
def test_a_plan_that_does_not_suit_is_refused_with_the_first_difference(change, words, tmp_path):
    path = edited(change, saved(tmp_path, {"user": 3}))
    with pytest.raises(ConfigError, match=f"^plan.json: {words}") as error:
        check(open_plan(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sharding", ["column_wise", "data_parallel"])
def test_a_shard_that_is_missing_is_seen_under_every_kind(sharding, tmp_path):
    path = edited(lambda plan: plan["tables"][0]["shards"].pop(), saved(tmp_path, sharding=sharding))
    with pytest.raises(ConfigError, match="the shards of user leave gaps"):
        check(open_plan(path))


def columns(plan: dict[str, Any], *places: tuple[int, int]) -> None:
    """Give the user table's two shards these first columns and widths."""
    for number, (first, width) in enumerate(places):
        shard(plan, number).update(column_offset=first, columns=width)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (((0, 4), (0, 4)), "the shards of user leave gaps in it or overlap"),  # twice the same half
        (((0, 4), (5, 3)), "the shards of user leave gaps in it or overlap"),  # column 4 is in none
        (((0, 6), (4, 4)), "the shards of user leave gaps in it or overlap"),  # columns 4 and 5 are in both
        (((0, 3), (3, 5)), "user is column_wise, which needs widths that are multiples of 4"),
        (((0, 0), (0, 8)), "user is column_wise, which needs widths that are multiples of 4"),
    ],
)
def test_columns_that_are_not_cut_in_whole_fours_are_refused(places, words, tmp_path):
    path = edited(lambda plan: columns(plan, *places), saved(tmp_path, sharding="column_wise"))
    with pytest.raises(ConfigError, match=f"^plan.json: {words}"):
        check(open_plan(path))


def by_rows(sharding: str, local_world_size: int, *shards: tuple[int, int, int]) -> Plan:
    """A user table of 10 rows on four GPUs, in shards of (rank, first row, rows)."""
    cut = [plans.shard(rank, rows, 8, row=row) for rank, row, rows in shards]
    plan = plans.plan_of([plans.table("user", 10, 8, sharding, cut)], 4)
    return replace(plan, local_world_size=local_world_size)


EQUAL = ((0, 0, 3), (1, 3, 3), (2, 6, 3), (3, 9, 1))


@pytest.mark.parametrize(
    ("sharding", "local", "shards"),
    [
        ("row_wise", 4, EQUAL),
        ("row_wise", 2, EQUAL),
        ("table_row_wise", 4, EQUAL),
        ("table_row_wise", 2, ((0, 0, 5), (1, 5, 5))),
        ("table_row_wise", 2, ((2, 0, 5), (3, 5, 5))),
    ],
)
def test_rows_in_equal_blocks_on_ranks_in_order_are_followed(sharding, local, shards):
    plan = by_rows(sharding, local, *shards)
    check(plan, {"user": (10, 8)}, Cluster(KNOWN["h100-80g"], 4, local))


@pytest.mark.parametrize(
    ("sharding", "local", "shards", "where"),
    [
        # TorchRec gives rank r the r-th block, whatever rank the block says.
        ("row_wise", 4, ((1, 0, 3), (0, 3, 3), (2, 6, 3), (3, 9, 1)), "every rank"),
        ("row_wise", 4, ((0, 0, 4), (1, 4, 2), (2, 6, 3), (3, 9, 1)), "every rank"),
        ("row_wise", 4, ((0, 0, 5), (1, 5, 5)), "every rank"),
        ("table_row_wise", 2, ((1, 0, 5), (2, 5, 5)), "the 2 ranks of one host"),
        ("table_row_wise", 2, ((3, 0, 5), (2, 5, 5)), "the 2 ranks of one host"),
        ("table_row_wise", 2, EQUAL, "the 2 ranks of one host"),  # made for hosts of four
    ],
)
def test_rows_that_torchrec_would_look_for_elsewhere_are_refused(sharding, local, shards, where):
    words = f"^plan.json: user is {sharding}, which needs equal blocks of rows on {where}, in their order"
    plan = by_rows(sharding, local, *shards)
    with pytest.raises(ConfigError, match=words):
        check(plan, {"user": (10, 8)}, Cluster(KNOWN["h100-80g"], 4, local))


@pytest.mark.parametrize("sharding", ["row_wise", "table_row_wise"])
@pytest.mark.parametrize(("rows", "world_size", "local"), [(10, 4, 4), (3, 8, 8), (9, 8, 4), (64, 16, 8)])
def test_what_the_planner_makes_of_rows_is_followed(sharding, rows, world_size, local):
    model, tables = TwoTowers({"user": rows}, {"item": 6}, 8), {"user": (rows, 8), "item": (6, 8)}
    constraints = {name: TableConstraint((sharding,), bags=32) for name in tables}
    cluster = Cluster(KNOWN["h100-80g"], world_size, local)
    plan = make_plan(model, constraints, optimizer="adagrad", cluster=cluster)
    check(plan, tables, cluster)


def test_devices_are_numbered_by_the_hosts_that_are_here():
    plan = layouts.planned(towers(), "row_wise", 4, "adagrad", KNOWN["h100-80g"])  # as for one host
    for local, devices in ((4, [0, 1, 2, 3]), (2, [0, 1, 0, 1])):
        user = sharding_plan(plan, towers(), "cuda", local).plan["query.embeddings"]["user"]
        places = [str(part.placement) for part in user.sharding_spec.shards]
        assert places == [f"rank:{rank}/cuda:{device}" for rank, device in enumerate(devices)]


def test_a_plan_for_another_optimizer_names_the_kernel_that_it_would_need(tmp_path):
    plan = open_plan(saved(tmp_path))  # Adagrad's, in the backward pass; on CPU Adam runs after it
    with pytest.raises(ConfigError, match="user has kernel fused; adam on cpu under table_wise has dense"):
        check(plan, optimizer="adam")


DAMAGES = [
    (lambda text: text[: len(text) // 2], "no sharding plan"),
    (lambda text: "[1, 2]", "no sharding plan"),
    (lambda text: "", "no sharding plan"),
    (lambda text: text.replace('"ranks"', '"rangs"'), "no sharding plan .*ranks"),
    (lambda text: text.replace('"rows": 10', '"rows": "ten"'), "rows is 'ten', expected a whole number"),
    (lambda text: text.replace('"rows": 10', '"rows": -10'), "rows is -10, expected a number from 0 up"),
    (lambda text: text.replace('"rows": 10', '"rows": true'), "rows is True, expected a whole number"),
    (lambda text: text.replace('"imbalance"', '"balance"'), "no sharding plan .*balance"),
    (lambda text: re.sub('"imbalance": [^,]*', '"imbalance": 1e999', text), "imbalance is inf, expected a n"),
    (lambda text: re.sub('"imbalance": [^,]*', '"imbalance": NaN', text), "imbalance is nan, expected a n"),
    (
        lambda text: text.replace('"idle_ranks": []', '"idle_ranks": ["a"]'),
        "idle_ranks holds 'a', expected a w",
    ),
    (lambda text: text.replace('"idle_ranks": []', '"idle_ranks": 1'), "no sharding plan"),
    (lambda text: text.replace('"table_wise"', '"by_rows"'), "user is by_rows; known are table_wise, "),
]


def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path):
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe{")
    for path, words in ((tmp_path / "plan.json", "no sharding plan"), (tmp_path, "cannot be read")):
        with pytest.raises(ConfigError, match=words) as error:
            open_plan(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan.update(world_size=0), "world_size is 0, expected a whole number from 1 up"),
        (lambda plan: plan.update(local_world_size=0), "local_world_size is 0, expected a divisor of .*, 2"),
        (lambda plan: plan.update(local_world_size=3), "local_world_size is 3, expected a divisor of .*, 2"),
        (lambda plan: plan.update(ranks=[]), "ranks has not one entry for each of 2, in order"),
        (lambda plan: plan["ranks"].reverse(), "ranks has not one entry for each of 2, in order"),
        (lambda plan: plan["tables"].append(plan["tables"][0]), "table user is there twice"),
    ],
)
def test_a_file_whose_numbers_contradict_each_other_is_refused_in_one_line(change, words, tmp_path):
    path = edited(change, saved(tmp_path))
    with pytest.raises(ConfigError, match=rf"plan\.json: {words}.* Make it anew$") as error:
        open_plan(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(damage, words, tmp_path):
    path = saved(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError, match=rf"plan\.json: {words}") as error:
        open_plan(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("exists", [False, True])
def test_train_ends_before_any_data_are_read(exists, tmp_path, capsys):
    path = saved(tmp_path) if exists else tmp_path / "none.json"
    options = ["--sharding.plan", str(path), "--data.root", str(tmp_path / "nowhere"), "--device", "cpu"]
    assert main(["train", *options]) == 2
    words = "a plan for 2 ranks, and there are 1" if exists else "cannot be read (No such file or directory)"
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {path}: {words}")
    assert captured.err.count("\n") == 1


@pytest.fixture(scope="module")
def planned_case(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Options of a training on a checkerboard, and the plan that the `plan` command makes for it."""
    folder = tmp_path_factory.mktemp("checkerboard")
    options = [*worlds.QUICK, "--device", "cpu", *worlds.options(folder, *worlds.checkerboard())]
    assert main(["plan", *options, "--world-size", "1", "--save", str(folder / "plan.json")]) == 0
    return options, folder / "plan.json"


def test_train_follows_a_saved_plan_to_the_letter(planned_case, tmp_path):
    options, path = planned_case
    run = tmp_path / "run"
    assert main(["train", *options, "--run.dir", str(run), "--sharding.plan", str(path)]) == 0
    assert open_plan(run / "plan.json") == open_plan(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda plan: plan["tables"].append(plan["tables"][0] | {"name": "extra"}),
            "has a table extra, which",
        ),
        (lambda plan: plan["tables"].pop(), "has no table "),
        (lambda plan: plan["tables"][0].update(rows=9), "user has rows 9, the model's has "),
        (lambda plan: plan["tables"][0].update(sharding="row_wise"), "user is row_wise: .* not on CPU"),
        (lambda plan: plan["tables"][0].update(kernel="dense"), "user has kernel dense; rowwise_adagrad on"),
        (lambda plan: shard(plan).update(rank=1), "user lies on rank 1, and ranks go to 0"),
        (lambda plan: shard(plan).update(row_offset=1), "the shards of user leave gaps in it or overlap"),
        (lambda plan: plan.pop("ranks"), "no sharding plan .'ranks'"),
        (lambda plan: plan.update(local_world_size=0), "local_world_size is 0, expected a divisor"),
    ],
)
def test_train_refuses_a_plan_that_does_not_suit_in_one_line(change, words, planned_case, tmp_path, capsys):
    options, made = planned_case
    path = tmp_path / "plan.json"
    path.write_text(made.read_text())
    edited(change, path)
    capsys.readouterr()
    run = tmp_path / "run"
    assert main(["train", *options, "--run.dir", str(run), "--sharding.plan", str(path)]) == 2
    error = capsys.readouterr().err
    assert re.match(f"error: {re.escape(str(path))}: {words}", error), error
    assert error.count("\n") == 1
    assert not run.exists()


def test_a_plan_that_does_not_suit_is_refused_before_anything_is_chosen(planned_case, tmp_path, monkeypatch):
    options, made = planned_case
    path = tmp_path / "plan.json"
    path.write_text(made.read_text())
    monkeypatch.setattr(train, "choose", lambda *_: pytest.fail("something is chosen"))
    command = ["train", *options, "--run.choose", "true", "--run.dir", str(tmp_path / "run")]
    for wrong in (["--model.dim", "12"], ["--model.item_bias", "false"], ["--optimizer.name", "adam"]):
        assert main([*command, "--sharding.plan", str(path), *wrong]) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]
