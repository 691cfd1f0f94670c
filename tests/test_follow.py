"""Plans read from files: followed exactly, or refused with the first difference."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import layouts
from trainer.cli import main
from trainer.errors import ConfigError
from trainer.model.towers import TwoTowers
from trainer.parallel.follow import check_plan, partitions_of, sharding_plan
from trainer.parallel.plan import open_plan, save_plan

TABLES = [("user", 10, 8), ("item", 6, 8)]
KINDS = ("table_wise", "column_wise", "table_column_wise", "data_parallel")


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
    check_plan(opened, "plan.json", TABLES, "adagrad", "cpu", 2)
    one, other = (sharding_plan(each, towers(), "cpu").plan for each in (plan, opened))
    assert str(one) == str(other)
    assert set(one) == {"query.embeddings", "candidate.embeddings"}


def test_the_parts_of_a_cut_table_are_whole_tables_to_torchrec(tmp_path):
    plan = open_plan(saved(tmp_path, {"user": 3}))
    check_plan(plan, "plan.json", TABLES, "adagrad", "cpu", 2)
    assert partitions_of(plan) == {"user": 3}
    parts = sharding_plan(plan, towers({"user": 3}), "cpu").plan["query.embeddings"]
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
]


@pytest.mark.parametrize(("change", "words"), REFUSALS)
def test_a_plan_that_does_not_suit_is_refused_with_the_first_difference(change, words, tmp_path):
    path = edited(change, saved(tmp_path, {"user": 3}))
    with pytest.raises(ConfigError, match=f"^plan.json: {words}") as error:
        check_plan(open_plan(path), "plan.json", TABLES, "adagrad", "cpu", 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sharding", ["column_wise", "data_parallel"])
def test_a_shard_that_is_missing_is_seen_under_every_kind(sharding, tmp_path):
    path = edited(lambda plan: plan["tables"][0]["shards"].pop(), saved(tmp_path, sharding=sharding))
    with pytest.raises(ConfigError, match="the shards of user leave gaps"):
        check_plan(open_plan(path), "plan.json", TABLES, "adagrad", "cpu", 2)


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
