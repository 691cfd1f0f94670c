"""Tables of float16 in one process: learned, planned, followed, opened; and what cannot have them."""

import json
from pathlib import Path

import pytest

from tests import worlds
from trainer.cli import main
from trainer.config.parser import parse_config
from trainer.config.size_defaults import with_size_defaults
from trainer.errors import ConfigError
from trainer.planning.kernel_support import check_dtype

TRAIN, WITHHELD = worlds.checkerboard()
HALF = ("--model.table_dtype", "float16")


@pytest.mark.parametrize("kind", ["table_wise", "row_partitioned", "column_wise"])
def test_the_checkerboard_is_learned_and_recommended_from(capsys, tmp_path: Path, kind: str) -> None:
    options = [*HALF, "--sharding.kind", kind, "--evaluation.k", "1"]
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), *options)
    assert json.loads((run / "metrics.json").read_text())["model"]["ndcg@1"] == 1
    plan = json.loads((run / "plan.json").read_text())
    # 17 users of 8 numbers and 9 items of 8 and of 4, each of two bytes.
    weights = {t["name"]: sum(s["weight_bytes"] for s in t["shards"]) for t in plan["tables"]}
    assert weights == {"user": 17 * 8 * 2, "item": 9 * 8 * 2, "item_bias": 9 * 4 * 2}
    assert {table["dtype"] for table in plan["tables"]} == {"fp16"}
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["ndcg@1"] == 1
    for user, item in WITHHELD[:3]:
        assert main(["recommend", str(run), "--user", str(user), "-k", "1", "--json", "--mark", "test"]) == 0
        assert str(item) in capsys.readouterr().out


def test_a_plan_shows_half_of_the_weights_and_the_same_state(capsys) -> None:
    command = ["plan", "--rows", "user=1e6", "--rows", "movie=1e5", "--dim", "64", "--world-size", "1"]
    found = {}
    for dtype in ("float32", "float16"):
        assert main([*command, "--optimizer.name", "adagrad", "--model.table_dtype", dtype, "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        shards = [shard for table in plan["tables"] for shard in table["shards"]]
        found[dtype] = [sum(s[name] for s in shards) for name in ("weight_bytes", "optimizer_bytes")]
        # What is held beside the tables are ids and vectors on their way, which are float32 in both.
        found[dtype].append(plan["ranks"][0]["bytes"] - sum(found[dtype]))
    values = 10**6 * 64 + 10**5 * (64 + 4)
    assert found["float32"][:2] == [values * 4, values * 4]
    assert found["float16"][:2] == [values * 2, values * 4]
    assert found["float16"][2] == found["float32"][2]
    assert main([*command, *HALF]) == 0
    assert "fp16" in capsys.readouterr().out


def test_a_plan_is_followed_by_tables_of_its_type_alone(capsys, tmp_path: Path) -> None:
    data = worlds.options(tmp_path, TRAIN, WITHHELD)
    plan = str(tmp_path / "plan.json")
    quick = [*data, *worlds.QUICK, "--device", "cpu"]
    assert main(["plan", *quick, *HALF, "--world-size", "1", "--save", plan]) == 0
    follow = ["train", *quick, "--sharding.plan", plan, "--run.dir", str(tmp_path / "run")]
    capsys.readouterr()
    assert main(follow) == 2
    assert capsys.readouterr().err == (
        f"error: {plan}: user is of fp16, the model's of fp32. Plan anew, or give the --model.table_dtype "
        "that it was planned with\n"
    )
    assert main([*follow, *HALF]) == 0


@pytest.mark.parametrize(
    ("optimizer", "sharding", "device", "words"),
    [
        ("adam", "table_wise", "cpu", "not with --optimizer.name adam, whose.*Use one of rowwise_adagrad, "),
        ("sgd", "data_parallel", "cpu", "not with --sharding.kind data_parallel.*Use another kind"),
        ("adam", "data_parallel", "cuda", "not with --sharding.kind data_parallel.*Use another kind"),
    ],
)
def test_a_dense_kernel_has_no_smaller_tables(optimizer, sharding, device, words) -> None:
    with pytest.raises(ConfigError, match=rf"--model.table_dtype float16: {words}") as error:
        check_dtype("float16", optimizer, sharding, device)
    assert "\n" not in str(error.value)
    check_dtype("float32", optimizer, sharding, device)
    check_dtype("float16", "adam_fused", "table_wise", "cuda")


@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer.name", "adam"],
        ["--optimizer.name", "adam", "--sharding.kind", "auto"],
        ["--sharding.kind", "data_parallel"],
        ["--sharding.tables.item", "data_parallel"],
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(capsys, tmp_path: Path, options) -> None:
    command = ["train", "--data.root", str(tmp_path / "nowhere"), "--data.source", "none", "--device", "cpu"]
    assert main([*command, *HALF, *options, "--run.dir", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --model.table_dtype float16: not with ")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_planner_chooses_among_kinds_that_have_the_type(capsys) -> None:
    rows = [
        "--rows",
        "user=50",
        "--rows",
        "movie=50",
        "--hardware",
        "cpu",
        "--world-size",
        "2",
        "--optimizer.name",
        "sgd",
    ]
    kinds = {}
    for dtype in ("float32", "float16"):
        assert main(["plan", *rows, "--sharding.kind", "auto", "--model.table_dtype", dtype, "--json"]) == 0
        kinds[dtype] = {table["sharding"] for table in json.loads(capsys.readouterr().out)["tables"]}
    assert "data_parallel" in kinds["float32"]  # small tables are best copied
    assert "data_parallel" not in kinds["float16"]


def test_an_optimizer_that_is_open_is_one_that_has_the_type() -> None:
    assert with_size_defaults(parse_config([]), 943, 1682, 80_000).optimizer.name == "adam"
    assert with_size_defaults(parse_config(HALF), 943, 1682, 80_000).optimizer.name == "rowwise_adagrad"
