"""The `plan` command as its users meet it: figures, files, advice that holds, mistakes in one line."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import worlds
from trainer.cli import main
from trainer.formatting import format_bytes, format_milliseconds
from trainer.inspection import advisor as what_helps

WHAT_IF = ("--rows", "user=2e5", "--rows", "movie=1e4", "--dim", "64", "--optimizer.name", "adagrad")
"""51 MB and 2.6 MB of weights, and as much of state."""
MB = 0.001


def hardware(folder: Path, device: str, memory: float, devices: int = 4) -> list[str]:
    """Options for a slow device with so many 10^9 bytes of memory, which the host of a GPU has as well."""
    path = folder / f"tiny-{device}.yaml"
    speeds = dict.fromkeys(("memory_speed", "link_speed", "intra_speed", "inter_speed"), 1.0)
    sizes = {"memory": memory, "host_memory": memory, "devices": devices}
    path.write_text(yaml.dump({"device": device, **sizes, **speeds}))
    return ["--hardware", str(path)]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]):
    """What a `plan` command that succeeds prints."""

    def show(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["plan", *arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return show


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """What a `plan` command that fails says, without `error: `."""

    def refuse(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["plan", *arguments]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")
        return output.err.removeprefix("error: ")

    return refuse


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for a checkerboard of 16 users and 8 items."""
    return worlds.options(tmp_path_factory.mktemp("data"), *worlds.checkerboard())


def check_json(plan: dict[str, Any]) -> None:
    """Keys that scripts rely on, and loads that are the sums of the shards."""
    assert plan.keys() >= {
        *("world_size", "hardware", "tables", "ranks", "imbalance", "estimated_step_ms", "idle_ranks"),
    }
    assert [load["rank"] for load in plan["ranks"]] == list(range(plan["world_size"]))
    held = [0] * plan["world_size"]
    for table in plan["tables"]:
        assert table.keys() >= {"name", "rows", "dim", "sharding", "kernel", "shards"}
        for shard in table["shards"]:
            assert shard.keys() == {
                *("rank", "row_offset", "column_offset", "rows", "columns"),
                *("weight_bytes", "optimizer_bytes"),
            }
            held[shard["rank"]] += shard["weight_bytes"] + shard["optimizer_bytes"]
    for load, tables in zip(plan["ranks"], held, strict=True):
        assert load.keys() >= {
            *("rank", "bytes", "capacity_bytes", "lookups", "bytes_sent", "bytes_received"),
        }
        # Ids and vectors on their way come on top: of some hundred rows, at most some megabytes.
        assert tables <= load["bytes"] <= tables + 10**7
    assert sum(load["bytes_sent"] for load in plan["ranks"]) == pytest.approx(
        sum(load["bytes_received"] for load in plan["ranks"]), abs=plan["world_size"]
    )


@pytest.mark.parametrize("kind", ["table_wise", "column_wise", "row_partitioned", "data_parallel"])
@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_json_has_every_key_and_ranks_hold_the_sum_of_their_shards(shown, data, kind, world_size) -> None:
    options = ("--sharding.kind", kind, "--world-size", str(world_size), "--hardware", "cpu", "--json")
    check_json(json.loads(shown(*WHAT_IF, "--batches.size", "128", *options)))
    check_json(json.loads(shown(*data, *options)))


def test_sizes_are_those_of_the_prepared_data(shown, data) -> None:
    tables = json.loads(shown(*data, "--dim", "12", "--json"))["tables"]
    # One row more for ids that training has not seen.
    assert [(table["name"], table["rows"], table["dim"]) for table in tables] == [
        *(("user", 17, 12), ("item", 9, 12), ("item_bias", 9, 4)),
    ]


def test_given_rows_stand_for_those_of_the_data_and_take_what_is_as_long_with_them(shown, data) -> None:
    plan = json.loads(shown(*data, "--rows", "item=1e6", "--hardware", "h100-80g", "--json"))
    assert {table["name"]: table["rows"] for table in plan["tables"]} == {
        "user": 17,
        "item": 10**6,
        "item_bias": 10**6,
    }
    # A catalogue of a million is sampled: 8,192 uniform items, and 3 positives of each of 16 rows.
    assert {table["lookups"] for table in plan["tables"]} == {16, 8192 + 48}
    large = json.loads(shown(*data, "--rows", "user=1e9", "--world-size", "16", *ROW_WISE, "--json"))
    # Adam and its two states a value are for tables of some megabytes.
    assert sum(load["bytes"] for load in large["ranks"]) < 1.1 * 10**9 * 4 * (128 + 1)


ROW_WISE = ("--sharding.tables.user", "row_wise", "--hardware", "h100-80g")


@pytest.mark.parametrize("device", ["cpu", "h100-80g"])
@pytest.mark.parametrize("kind", ["table_wise", "column_wise", "data_parallel", "table_column_wise"])
def test_no_line_is_wider_than_80_columns(shown, device: str, kind: str) -> None:
    rows = ("--rows", "user=1e6", "--rows", "movie=12345", "--rows", "movie_with_a_name_of_some_length=9000")
    for world_size in range(1, 9):
        options = ("--world-size", str(world_size), "--hardware", device, "--sharding.kind", kind)
        text = shown(*rows, *options, "--optimizer.name", "adagrad", "--dim", "32")
        assert [line for line in text.splitlines() if len(line) > 80] == []


def test_ranks_that_hold_nothing_are_named(shown) -> None:
    gpu = ("--hardware", "h100-80g")
    text = shown(*WHAT_IF, "--world-size", "6", *gpu)
    assert "Ranks 3-5 hold no table." in text
    # Three rows on five ranks: two of the five shards are empty.
    few = ("--rows", "user=3", "--rows", "movie=3", "--sharding.kind", "row_wise", "--world-size", "5")
    assert json.loads(shown(*few, *gpu, "--json"))["idle_ranks"] == [3, 4]


def remedies(message: str) -> list[tuple[str, str, str]]:
    """Options, bytes of the fullest rank and step of each numbered remedy."""
    lines = message.splitlines()[1:]
    pattern = r"  (\d+)\. (.+): (\S+ \S?B) of (?:\S+ \S?B) on the fullest rank, step of (\S+ ms) \(estimate\)"
    found = [match for line in lines if (match := re.fullmatch(pattern, line))]
    assert len(found) == len(lines)
    assert [int(match[1]) for match in found] == list(range(1, len(found) + 1))
    return [(match[2], match[3], match[4]) for match in found]


def figures(plan: dict[str, Any]) -> tuple[str, str]:
    fullest = max(load["bytes"] for load in plan["ranks"])
    return format_bytes(fullest), format_milliseconds(plan["estimated_step_ms"])


TOO_LARGE = [
    ("cpu", 100 * MB, 4, "table_wise", ""),
    ("cpu", 30 * MB, 3, "column_wise", ""),
    ("cpu", 100 * MB, 4, "table_wise", "--optimizer.name adam --local-world-size 2"),
    ("cpu", 30 * MB, 2, "data_parallel", "--optimizer.name rowwise_adagrad"),
    ("cuda", 40 * MB, 4, "table_wise", ""),
    ("cuda", 60 * MB, 3, "data_parallel", "--optimizer.name adam"),
    ("cuda", 40 * MB, 8, "table_wise", "--sharding.tables.movie column_wise --sharding.ranks.user [1]"),
    ("cuda", 20 * MB, 4, "table_wise", "--optimizer.name auto --dim 128"),
]


@pytest.mark.parametrize(("device", "memory", "world_size", "kind", "more"), TOO_LARGE)
def test_where_tables_do_not_fit_each_remedy_does_as_printed(
    shown, refused, tmp_path: Path, device: str, memory: float, world_size: int, kind: str, more: str
) -> None:
    command = [*WHAT_IF, *hardware(tmp_path, device, memory), "--sharding.kind", kind, *shlex.split(more)]
    command += ["--world-size", str(world_size), "--batches.size", "64"]
    message = refused(*command)
    first = message.splitlines()[0]
    pattern = r"a rank needs (\S+) (.?B) at the least, and has (\S+) (.?B) for tables"
    needed = re.search(pattern, first)
    assert needed
    units = ["B", "kB", "MB", "GB"]
    sizes = [float(needed[place]) * 1000 ** units.index(needed[place + 1]) for place in (1, 3)]
    assert sizes[0] > sizes[1]
    found = remedies(message)
    assert len(found) >= 2
    for options, fullest, step in found:
        plan = json.loads(shown(*command, *shlex.split(options), "--json"))
        assert figures(plan) == (fullest, step), options
        check_json(plan)


def test_the_smallest_world_is_found_for_each_kind_of_cut(refused, tmp_path: Path) -> None:
    # 102 MB for users; a rank of half a host has 21 MB. In 8 parts of 12.8 MB they fit beside a movie table.
    command = [*WHAT_IF, *hardware(tmp_path, "cpu", 50 * MB), "--world-size", "2"]
    options = [options for options, *_ in remedies(refused(*command, "--batches.size", "16"))]
    assert options[:2] == [
        "--sharding.tables.user column_wise --world-size 8 --local-world-size 2",
        "--sharding.tables.user row_partitioned --world-size 8 --local-world-size 2",
    ]


@pytest.mark.parametrize(
    ("device", "memory", "start", "expected"),
    [
        # 108 MB in all, of which a rank takes 21 MB: not 2 or 4 ranks, which fill hosts of 2, but 6.
        ("cpu", 50 * MB, 2, "--sharding.kind row_partitioned --world-size 6 --local-world-size 2"),
        # A rank takes 42.5 MB: 3 of the 4 GPUs of a host.
        ("cuda", 50 * MB, 1, "--sharding.kind row_wise --world-size 3"),
        # 11.9 MB: 10 ranks at the least, and whole hosts of 4 are 12.
        ("cuda", 14 * MB, 1, "--sharding.kind row_wise --world-size 12"),
    ],
)
def test_no_smaller_world_holds_the_tables(
    refused, tmp_path, monkeypatch, device, memory, start, expected
) -> None:
    command = [*WHAT_IF, *hardware(tmp_path, device, memory), "--batches.size", "16"]
    assert expected in [options for options, *_ in remedies(refused(*command, "--world-size", str(start)))]
    words = shlex.split(expected)
    place, host = words.index("--world-size") + 1, 2 if device == "cpu" else 4
    one_host = range(start, host) if device == "cuda" else ()
    monkeypatch.setattr(what_helps, "SEARCH_SECONDS", 0)  # for what does not fit, no more than that
    for smaller in (*one_host, *range(host, int(words[place]), host)):
        if smaller < int(words[place]):
            assert "do not fit" in refused(*command, *words[:place], str(smaller), *words[place + 1 :])


def test_a_smaller_type_is_offered_where_a_kernel_has_it(refused, tmp_path: Path) -> None:
    def offered(device: str, *more: str) -> dict[str, str]:
        small = ("--batches.size", "16", "--world-size", "1")
        message = refused(*WHAT_IF, *hardware(tmp_path, device, 110 * MB), *small, *more)
        return {options: size for options, size, _ in remedies(message) if "float16" in options}

    # (200,000 + 10,000) x 64 + 10,000 x 4 values of 2 and 4 bytes, and 10,000 vectors on their way.
    for device in ("cpu", "cuda"):
        assert offered(device) == {"--model.table_dtype float16": "83.8 MB"}
    assert offered("cpu", "--optimizer.name", "adam") == {}
    assert offered("cuda", "--model.table_dtype", "float16", "--optimizer.name", "adam_fused") == {}


CACHES = (
    *("--rows", "user=1.5e5", "--rows", "movie=1.5e5", "--dim", "64", "--optimizer.name", "sgd"),
    *("--loss.samples", "16", "--batches.size", "16", "--sharding.uvm_caching", "true"),
)
"""Two tables of 150,000 x 64 values, 38.4 MB each."""


def test_memory_of_the_host_is_shown_beside_that_of_the_device(shown, tmp_path: Path) -> None:
    # 34 MB of each GPU, and as much of its host: less than a table.
    gpu = [*hardware(tmp_path, "cuda", 40 * MB)]
    file = Path(gpu[1])
    file.write_text(file.read_text().replace("host_memory: 0.04", "host_memory: 0.06"))
    command = (*CACHES, *gpu, "--world-size", "2")
    ranks = json.loads(shown(*command, "--json"))["ranks"]
    held, there = [150_000 * 64 * 4] * 2, [0.85 * 60 * 10**6] * 2
    assert [load["host_bytes"] for load in ranks] == held
    assert [load["host_capacity_bytes"] for load in ranks] == there
    text = shown(*command)
    assert re.search(r"rank +behind a cache in its host +of capacity\n0-1 +38\.4 MB +75\.3%\n", text)
    assert "behind a cache" not in shown(*CACHES, "--hardware", "h100-80g")
    on_cpu = json.loads(shown(*WHAT_IF, "--hardware", "cpu", "--json"))["ranks"]
    assert {(load["host_bytes"], load["host_capacity_bytes"]) for load in on_cpu} == {(0, 0)}


@pytest.mark.parametrize(
    ("host", "words"),
    [
        # Each fits behind a cache, and both together do not: 76.8 MB and 2.4 MB of biases.
        (60 * MB, "behind caches they take 79.2 MB of the hosts' memory, of which a rank has 51 MB"),
        (40 * MB, "; behind a cache user takes 38.4 MB of a host, of which a rank has 34 MB"),
    ],
)
def test_what_does_not_fit_in_the_host_is_refused(shown, refused, tmp_path: Path, host, words) -> None:
    gpu = hardware(tmp_path, "cuda", 40 * MB)
    file = Path(gpu[1])
    file.write_text(file.read_text().replace("host_memory: 0.04", f"host_memory: {host}"))
    command = [*CACHES, *gpu, "--world-size", "1"]
    message = refused(*command)
    assert words in message.splitlines()[0]
    found = remedies(message)
    assert found
    for options, fullest, step in found:
        plan = json.loads(shown(*command, *shlex.split(options), "--json"))
        assert figures(plan) == (fullest, step), options
        assert all(load["host_bytes"] <= load["host_capacity_bytes"] for load in plan["ranks"])


def test_narrower_tables_keep_the_optimizer_that_was_decided_for_wide_ones(refused, tmp_path: Path) -> None:
    # 27 million values are too many for Adam, and half of them would not be.
    rows = ("--rows", "user=2e5", "--rows", "movie=1e4", "--dim", "128")
    message = refused(*rows, *hardware(tmp_path, "cuda", 70 * MB), "--batches.size", "16")
    options = [options for options, *_ in remedies(message)]
    assert "--model.dim 64 --optimizer.name rowwise_adagrad" in options


@pytest.mark.parametrize(
    "more",
    [
        "--hardware cpu --optimizer.name adagrad",
        "--hardware h100-80g --world-size 16",
        "--hardware h100-80g --world-size 8 --optimizer.name adam",
        "--hardware cpu --optimizer.name sgd --sharding.tables.user column_wise --sharding.ranks.user [1,2]",
        "--hardware t4-16g --world-size 8 --sharding.kind data_parallel --rows movie_tag=1e5",
    ],
)
def test_the_change_that_is_advised_gives_the_figures_that_are_said(shown, more: str) -> None:
    command = ["--rows", "user=1e6", "--rows", "movie=1e5", "--dim", "64", *shlex.split(more)]
    before = figures(json.loads(shown(*command, "--json")))
    text = " ".join(shown(*command).split())
    advice = re.search(
        r"What helps most: (.+): estimated step (.+) -> (.+), fullest rank (.+) -> (\S+ \S?B)", text
    )
    assert advice, text
    assert (advice[4], advice[2]) == before
    after = json.loads(shown(*command, *shlex.split(advice[1]), "--json"))
    assert figures(after) == (advice[5], advice[3])
    assert after["world_size"] == json.loads(shown(*command, "--json"))["world_size"]


def test_small_gains_are_not_advised(shown) -> None:
    # Of a device with 80 GB, some kilobytes; of a step, some microseconds less than starting a kernel takes.
    text = shown("--rows", "user=100", "--rows", "movie=100", "--hardware", "h100-80g")
    assert "What helps most" not in text


def test_a_cut_that_changes_the_optimizer_is_said_to(shown) -> None:
    command = ("--rows", "user=1e6", "--rows", "movie=1e5", "--dim", "64", "--world-size", "4")
    assert "(values then keep 11 bits of 24)" in " ".join(shown(*command).split())
    smaller = ("--model.table_dtype", "float16", "--hardware", "t4-16g")
    text = " ".join(shown(*command, *smaller).split())
    assert "column_wise" in text
    assert "(each part of a row then has its own statistic)" in text


def test_a_saved_plan_compared_with_itself_has_not_moved(shown, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    printed = shown(*WHAT_IF, "--hardware", "a100-40g", "--save", str(path), "--json")
    assert json.loads(path.read_text()) == json.loads(printed)
    text = shown(*WHAT_IF, "--hardware", "a100-40g", "--compare", str(path))
    assert "Every table of both plans lies in the same place." in text
    other = shown(
        *WHAT_IF, "--hardware", "a100-40g", "--sharding.kind", "column_wise", "--compare", str(path)
    )
    assert "would move to ranks that" in other
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_that_is_followed_is_what_was_saved(shown, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    saved = shown(*WHAT_IF, "--sharding.kind", "column_wise", "--save", str(path), "--json")
    assert shown(*WHAT_IF, "--sharding.plan", str(path), "--json") == saved


def test_the_plan_of_a_run_is_the_one_it_used_and_the_one_that_was_foretold(
    shown, refused, data, tmp_path: Path
) -> None:
    foretold = shown(*worlds.QUICK, "--device", "cpu", *data, "--world-size", "1", "--json")
    run = worlds.trained(tmp_path, *data)
    used = json.loads((run / "plan.json").read_text())
    assert json.loads(shown(str(run), "--json")) == used == json.loads(foretold)
    assert "user (fused): whole on rank 0" in shown(str(run))
    for option in (["--world-size", "2"], ["--rows", "user=3"], ["--dim", "8"], ["--hardware", "cpu"]):
        assert "a run's plan is what it is" in refused(str(run), *option)


def test_a_picture_is_an_svg_and_stands_beside_what_is_printed(shown, tmp_path: Path) -> None:
    path = tmp_path / "plan.svg"
    text = shown(*WHAT_IF, "--picture", str(path))
    assert text == shown(*WHAT_IF)
    picture = path.read_text()
    assert picture.startswith("<svg")
    assert "user" in picture


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--hardware h101", "--hardware h101: unknown; known are cpu, t4-16g, "),
        ("--hardware h101", "Did you mean h100-80g or "),
        ("--hardware nowhere.yaml", "--hardware nowhere.yaml: cannot be read"),
        ("--rows user=2.5", "--rows user=2.5: a table and a whole number from 1 up are needed, as user=2e9"),
        ("--rows user=0", "a whole number from 1 up"),
        ("--rows user", "a whole number from 1 up"),
        ("--rows user=nan", "a whole number from 1 up"),
        ("--world-size 0", "argument --world-size: '0': a whole number from 1 up is needed"),
        ("--world-size 4 --local-world-size 3", "--local-world-size 3: 4 ranks do not fill hosts of 3"),
        ("--dim 10", "--model.dim 10: a multiple of 4 from 4 to 16,384 is needed"),
        ("--save nowhere/plan.json", "nowhere/plan.json: cannot be written (No such file or directory)"),
        ("--save .", "cannot be written"),
        ("--picture nowhere/plan.svg", "--picture nowhere/plan.svg: cannot be written"),
        ("--picture .", "cannot be written"),
        ("--compare nowhere.json", "nowhere.json: cannot be read"),
        ("--compare README.md", "README.md: no sharding plan"),
        ("--compare nowhere.json --json", "--json: prints one plan. Leave it or --compare out"),
        ("--sharding.kind wise", "--sharding.kind wise: expected one of table_wise, "),
        ("--sharding.tables.user wise", "--sharding.tables.user wise: one of table_wise, "),
        ("--sharding.tables.usr auto", "--sharding.tables.usr: no such table; this model has user, movie"),
        ("--sharding.kind row_wise --hardware cpu", "--sharding.kind row_wise: not on CPU"),
        ("--sharding.ranks.user [4]", "--sharding.ranks.user 4: ranks go from 0 to 3"),
        ("--sharding.ranks.user [0] --sharding.kind auto", "a table that is auto has no ranks of its own"),
        ("--sharding.partitions.user 3", "user is not row_partitioned. Add --sharding.tables.user row_part"),
        ("--sharding.uvm_caching true --hardware cpu", "caches need a GPU"),
        ("--model.dimm 8", "--model.dimm: no such option. Did you mean --model.dim?"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, words: str
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "README.md").write_text("# No plan\n")
    monkeypatch.chdir(inside)
    message = refused(*WHAT_IF, *shlex.split(options))
    assert words in message
    assert message.count("\n") == 1
    assert [entry.name for entry in tmp_path.rglob("*")] == ["inside", "README.md"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nowhere", "nowhere: no run folder (it has no config.yaml)"),
        ("nowhere --model.dim 8", "--model.dim: a run's plan is what it is"),
    ],
)
def test_a_run_that_is_none_is_refused(refused, arguments: str, words: str) -> None:
    message = refused(*shlex.split(arguments))
    assert words in message
    assert message.count("\n") == 1


def test_a_table_that_the_data_do_not_have_names_the_nearest(refused, data) -> None:
    message = refused(*data, "--rows", "usr=5")
    assert re.fullmatch(r"--rows usr: \S+ has no such table. Did you mean user\?\n", message)


def test_vectors_exchanged_in_two_bytes_are_planned_so(shown) -> None:
    def ranks(*more: str) -> list[dict[str, Any]]:
        options = ("--world-size", "4", "--hardware", "h100-80g", *WHAT_IF, *more)
        return json.loads(shown(*options, "--json"))["ranks"]

    as_they_are, halved = ranks(), ranks("--sharding.communication", "float16")
    assert [rank["bytes"] for rank in halved] == [rank["bytes"] for rank in as_they_are]
    for key in ("bytes_sent", "communication_ms"):
        assert sum(rank[key] for rank in halved) < 0.95 * sum(rank[key] for rank in as_they_are)


def test_a_step_looks_up_what_its_loss_draws_and_no_more(shown) -> None:
    def lookups(*more: str) -> set[int]:
        options = (*WHAT_IF, "--hardware", "cpu", "--batches.size", "64", *more, "--json")
        return {table["lookups"] for table in json.loads(shown(*options))["tables"]}

    # 20 interactions a user are assumed: 64 rows have 1,280 positives.
    assert lookups("--loss.candidates", "in_batch") == {64, 1280}
    assert lookups("--loss.candidates", "sampled", "--loss.samples", "512") == {64, 1280 + 512}
    assert lookups("--loss.candidates", "catalogue") == {64, 10_000}


AUTOMATIC = (
    "plan --sharding.kind auto --hardware h100-80g --world-size 8 --rows user=1e7 --rows movie=1e6 --dim 64 "
    "--optimizer.name adagrad --sharding.uvm_caching true --json"
)


def test_the_planners_choice_does_not_depend_on_the_hash_seed() -> None:
    # Column-wise and table-column-wise have equal estimates here, as have row-wise and table-row-wise.
    plans = [
        subprocess.run(
            [sys.executable, "-m", "trainer", *AUTOMATIC.split()],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "2")
    ]
    assert plans[0] == plans[1]
    kinds = [table["sharding"] for table in json.loads(plans[0])["tables"]]
    assert kinds == ["column_wise", "column_wise", "row_wise"]
