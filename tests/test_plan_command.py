"""The plan command as a user calls it."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests import worlds
from trainer.cli import main

TRAIN, WITHHELD = worlds.checkerboard()
BIG = "--rows user=2e9 --rows movie=5e7 --dim 128"
SMALL = """
device: {device}
memory: {memory}
memory_speed: 100
host_memory: 1
link_speed: 10
intra_speed: 10
inter_speed: 1
devices: 8
"""


def planned(arguments: str, capsys) -> tuple[int, str, str]:
    """Exit code, output and errors of a plan command."""
    code = main(["plan", *shlex.split(arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def as_json(arguments: str, capsys) -> dict:
    code, out, err = planned(f"{arguments} --json", capsys)
    assert (code, err) == (0, "")
    return json.loads(out)


def hardware(folder: Path, memory: float, device: str = "cuda") -> str:
    path = folder / "small.yaml"
    path.write_text(SMALL.format(memory=memory, device=device))
    return f"--hardware {path}"


def test_json_holds_what_the_text_is_made_of(capsys):
    plan = as_json(
        "--rows user=1000 --rows movie=500 --dim 16 --optimizer.name adagrad --world-size 2", capsys
    )
    assert {"world_size", "hardware", "tables", "ranks", "imbalance", "estimated_step_ms"} <= plan.keys()
    assert (plan["world_size"], plan["hardware"], plan["idle_ranks"]) == (2, "cpu", [])
    tables = {table["name"]: table for table in plan["tables"]}
    assert {name: (table["rows"], table["dim"]) for name, table in tables.items()} == {
        "user": (1000, 16),
        "movie": (500, 16),
        "movie_bias": (500, 4),
    }
    (shard,) = tables["user"]["shards"]
    # 1000 x 16 x 4 bytes, and as much of Adagrad's sums.
    assert (shard["weight_bytes"], shard["optimizer_bytes"]) == (64_000, 64_000)
    assert shard.keys() >= {"rank", "row_offset", "column_offset", "rows", "columns"}
    for rank in plan["ranks"]:
        assert rank.keys() >= {"bytes", "capacity_bytes", "lookups", "bytes_sent", "bytes_received"}
        held = [s for table in plan["tables"] for s in table["shards"] if s["rank"] == rank["rank"]]
        assert rank["bytes"] >= sum(s["weight_bytes"] + s["optimizer_bytes"] for s in held)
    sizes = [rank["bytes"] for rank in plan["ranks"]]
    assert plan["imbalance"] == pytest.approx(max(sizes) / (sum(sizes) / 2), abs=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "kind", "state"),
    [
        ("sgd", "table_wise", 0),
        ("rowwise_adagrad", "table_wise", 100 * 4),
        ("adagrad", "table_wise", 100 * 8 * 4),
        ("adam", "table_wise", 3 * 100 * 8 * 4),  # two moments, and the dense kernel's gradient
        ("sgd", "data_parallel", 2 * 100 * 8 * 4),  # a gradient on each of two ranks
        ("rowwise_adagrad", "column_wise", 2 * 100 * 4),  # a sum a row and shard
        ("adam", "row_partitioned", 3 * 100 * 8 * 4),
    ],
)
def test_bytes_beside_the_weights_are_those_of_optimizer_and_kernel(optimizer, kind, state, capsys):
    options = f"--rows user=100 --rows item=100 --dim 8 --optimizer.name {optimizer} --sharding.kind {kind}"
    user = as_json(f"{options} --world-size 2", capsys)["tables"][0]
    assert sum(shard["optimizer_bytes"] for shard in user["shards"]) == state


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("device", ["cpu", "h100-80g"])
def test_the_text_fits_a_terminal(size, device, capsys):
    code, out, err = planned(
        f"--rows user=6041 --rows movie=3707 --hardware {device} --world-size {size}", capsys
    )
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= 80
    assert f"{size} rank" in out
    assert "TorchRec's estimate" in out
    idle = re.search(r"Ranks? ([\d-]+) holds? no table", out)
    # Three tables: of four ranks one is idle, of eight five.
    assert (idle.group(1) if idle else None) == {1: None, 2: None, 4: "3", 8: "3-7"}[size]


def test_the_plan_of_prepared_data_is_the_one_that_train_uses(tmp_path, capsys):
    data = shlex.join(worlds.options(tmp_path, TRAIN, WITHHELD))
    quick = shlex.join(worlds.QUICK)
    plan = as_json(f"{data} {quick} --device cpu --world-size 1", capsys)
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD))
    capsys.readouterr()
    assert json.loads((run / "plan.json").read_text()) == plan
    assert as_json(str(run), capsys) == plan
    other = as_json(f"{data} {quick} --device cpu --world-size 1 --rows item=1000", capsys)
    assert [table["rows"] for table in other["tables"]] == [17, 1000, 9]


def test_two_billion_users_fit_64_gpus_by_rows_and_never_whole(capsys):
    code, out, _ = planned(f"{BIG} --hardware h100-80g --world-size 64 --sharding.kind row_wise", capsys)
    assert code == 0
    assert "64 ranks of h100-80g, 8 hosts" in out
    code, out, err = planned(f"{BIG} --hardware h100-80g --world-size 64", capsys)
    assert (code, out) == (2, "")
    # 2e9 x (128 + 1) x 4 bytes of weights and row-wise sums.
    assert "a rank needs 1.03 TB at the least, and has 68 GB for tables" in err
    assert "\n  1. --sharding.kind column_wise: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_remedy_fits_when_it_is_followed(device, tmp_path, capsys):
    # 1,000,000 x 64 x 4 bytes are 256 MB; Adagrad doubles them. A rank has 170 MB, or a quarter of 680.
    small = hardware(tmp_path, 0.2 if device == "cuda" else 0.8, device)
    case = f"--rows user=1e6 --rows item=1e4 --dim 64 --optimizer.name adagrad {small} --world-size 4"
    code, _, err = planned(case, capsys)
    assert code == 2
    remedies = re.findall(r"^  \d+\. (.+): ([\d.]+ [kMG]B) of .* on the fullest rank", err, re.MULTILINE)
    assert len(remedies) >= 3
    for options, fullest in remedies:
        code, out, err = planned(f"{case} {options}", capsys)
        assert (code, err) == (0, ""), options
        assert fullest in out, options


@pytest.mark.parametrize("rows", ["--rows user=1e6 --optimizer.name adagrad", "--rows user=1e4"])
def test_the_advice_gives_the_figures_that_it_names(rows, tmp_path, capsys):
    # Of 1e4 users Adam is the default: a kind under which it would not be takes it along.
    case = f"{rows} --rows item=1e4 --dim 64 {hardware(tmp_path, 16)}"
    _, out, _ = planned(case, capsys)
    found = re.search(r"What helps most: (.+?): estimated step (.+?) -> (.+?), ", " ".join(out.split()))
    assert found is not None
    options, before, after = found.groups()
    assert f"Estimated step: {before} " in out
    assert f"Estimated step: {after} " in planned(f"{case} {options}", capsys)[1]


def test_a_saved_plan_is_compared_and_drawn(tmp_path, capsys):
    case, saved = "--rows user=1000 --rows movie=500 --dim 16", tmp_path / "plan.json"
    plan = as_json(f"{case} --save {saved} --picture {tmp_path / 'plan.svg'}", capsys)
    assert json.loads(saved.read_text()) == plan
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")
    code, out, _ = planned(f"{case} --compare {saved}", capsys)
    assert code == 0
    assert "Every table of both plans lies in the same place." in out
    _, out, _ = planned(f"{case} --sharding.kind column_wise --compare {saved}", capsys)
    assert re.search(r"user +column_wise .* table_wise", out)


MISTAKES = [
    ("--hardware h100", "--hardware h100: unknown; known are .* Did you mean h100-80g"),
    ("--rows user=2.5", "--rows user=2.5: a table and a whole number"),
    ("--rows user", "--rows user: a table and a whole number"),
    ("--rows user=1e400", "--rows user=1e400: a table and a whole number"),
    ("--world-size 0", "--world-size: '0': a whole number from 1 up"),
    ("--local-world-size 3", "--local-world-size 3: 4 ranks do not fill hosts of 3"),
    ("--sharding.kind wise", "--sharding.kind wise: expected one of table_wise"),
    ("--sharding.kind row_wise", "--sharding.kind row_wise: not on CPU"),
    (
        "--sharding.tables.uesr column_wise",
        "--sharding.tables.uesr: no such table; this model has user, movie",
    ),
    ("--sharding.ranks.user 4", "--sharding.ranks.user 4: ranks go from 0 to 3"),
    ("--sharding.partitions.user 2", "--sharding.partitions.user: user is not row_partitioned"),
    ("--sharding.uvm_caching true", "--sharding.uvm_caching true: caches need a GPU"),
    ("--dim 7", "--model.dim 7: a multiple of 4"),
    ("--compare {folder}/none.json", "{folder}/none.json: cannot be read"),
    ("--save {folder}/none/plan.json", "{folder}/none/plan.json: cannot be written"),
    ("--picture {folder}/none/plan.svg", "--picture {folder}/none/plan.svg: cannot be written"),
    ("--wrold-size 4", "--wrold-size: no such option"),
]


@pytest.mark.parametrize(("mistake", "words"), MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2(mistake, words, tmp_path, capsys):
    folder = str(tmp_path)
    rows = "" if "--rows" in mistake else "--rows user=1000"
    case = f"{rows} --rows movie=500 --device cpu {mistake.format(folder=folder)}"
    code, out, err = planned(case, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert re.match(f"error: (python -m trainer plan: argument )?{words.format(folder=folder)}", err), err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    code, _, err = planned(str(tmp_path), capsys)
    assert code == 2
    assert err.startswith(f"error: {tmp_path}: no run folder")
    assert planned(f"{tmp_path} --dim 8", capsys)[0] == 2
