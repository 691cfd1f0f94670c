"""Sharding plans, made without a process group."""

import json
import pickle
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch.distributed

from tests import layouts
from trainer.config.schema import OptimizerConfig
from trainer.errors import ConfigError
from trainer.model.towers import TwoTowers
from trainer.planning.capacity import TooLargeError
from trainer.planning.kernel_support import OPTIMIZERS, compute_kernel, optimizer_bytes
from trainer.planning.plan import as_dict, open_plan, save_plan

KINDS = ["table_wise", "column_wise", "data_parallel"]


def test_every_optimizer_of_the_options_has_its_facts() -> None:
    options = get_args(get_type_hints(OptimizerConfig)["name"])
    assert set(options) == {*OPTIMIZERS, "auto"}


def towers(rows: int = 100, dim: int = 16) -> TwoTowers:
    return TwoTowers({"user": rows, "user_age": 7}, {"item": 50, "item_bias": 50}, dim, item_bias="item_bias")


def planned(sharding: str, world_size: int, optimizer: str = "rowwise_adagrad") -> dict:
    return as_dict(layouts.planned(towers(), sharding, world_size, optimizer))


@pytest.mark.parametrize("sharding", KINDS)
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_optimizers_that_fbgemm_has_on_cpu_are_fused(optimizer: str, sharding: str) -> None:
    kernel = compute_kernel(optimizer, sharding, "cpu")
    assert kernel == ("dense" if sharding == "data_parallel" else "fused")


@pytest.mark.parametrize(
    ("sharding", "device", "kernel"),
    [
        ("table_wise", "cpu", "dense"),
        ("data_parallel", "cpu", "dense"),
        ("table_wise", "cuda", "dense"),
        ("data_parallel", "cuda", "dense"),
    ],
)
def test_adam_is_one_algorithm_on_every_device(sharding: str, device: str, kernel: str) -> None:
    assert compute_kernel("adam", sharding, device) == kernel


@pytest.mark.parametrize("sharding", ["table_wise", "column_wise", "row_wise", "table_row_wise"])
def test_fused_adam_is_on_cuda_alone(sharding: str) -> None:
    assert compute_kernel("adam_fused", sharding, "cuda") == "fused"


@pytest.mark.parametrize(
    ("sharding", "device", "message"),
    [
        ("table_wise", "cpu", "not on CPU, where FBGEMM has no fused Adam. Use --optimizer.name adam, which"),
        ("data_parallel", "cuda", "not with --sharding.kind data_parallel, which has a dense kernel alone"),
    ],
)
def test_fused_adam_is_refused_with_the_reason(sharding: str, device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--optimizer.name adam_fused: {message}"):
        compute_kernel("adam_fused", sharding, device)


def test_the_bytes_of_adam_are_those_of_its_means_and_of_a_dense_gradient() -> None:
    assert optimizer_bytes("adam", "dense", rows=10, columns=8) == 4 * 3 * 80
    assert optimizer_bytes("adam_fused", "fused", rows=10, columns=8) == 4 * 2 * 80


def test_combinations_that_do_not_exist_name_those_that_do() -> None:
    for device, others in (("cpu", "rowwise_adagrad, adagrad, sgd"), ("cuda", "rowwise_.*, adam_fused")):
        with pytest.raises(
            ConfigError, match=rf"adam: not with --sharding.kind column_wise, .* of {others}$"
        ):
            compute_kernel("adam", "column_wise", device)
    with pytest.raises(
        ConfigError, match=r"row_wise: not on CPU, .*table_wise, column_wise, .*row_partitioned"
    ):
        compute_kernel("sgd", "row_wise", "cpu")


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("sharding", ["table_wise", "column_wise"])
def test_every_cell_of_every_table_lies_on_one_rank(sharding: str, world_size: int) -> None:
    plan = planned(sharding, world_size)
    assert not torch.distributed.is_initialized()
    assert [table["name"] for table in plan["tables"]] == ["user", "user_age", "item", "item_bias"]
    for table in plan["tables"]:
        cells = []
        for shard in table["shards"]:
            assert 0 <= shard["rank"] < world_size
            assert shard["weight_bytes"] == shard["rows"] * shard["columns"] * 4
            rows = range(shard["row_offset"], shard["row_offset"] + shard["rows"])
            columns = range(shard["column_offset"], shard["column_offset"] + shard["columns"])
            cells += [(row, column) for row in rows for column in columns]
        assert sorted(cells) == [
            (row, column) for row in range(table["rows"]) for column in range(table["dim"])
        ]
        assert (table["sharding"], table["kernel"]) == (sharding, "fused")


@pytest.mark.parametrize("world_size", [1, 3])
def test_data_parallel_tables_are_whole_on_every_rank(world_size: int) -> None:
    plan = planned("data_parallel", world_size)
    assert plan["idle_ranks"] == ()
    for table in plan["tables"]:
        assert [shard["rank"] for shard in table["shards"]] == list(range(world_size))
        assert {(shard["rows"], shard["columns"]) for shard in table["shards"]} == {
            (table["rows"], table["dim"])
        }
        assert table["kernel"] == "dense"


def test_adam_on_cpu_is_planned_table_wise_with_the_dense_kernel() -> None:
    assert {(table["sharding"], table["kernel"]) for table in planned("table_wise", 2, "adam")["tables"]} == {
        ("table_wise", "dense")
    }


def test_ranks_without_a_table_are_named() -> None:
    plan = planned("table_wise", 6)
    busy = {shard["rank"] for table in plan["tables"] for shard in table["shards"]}
    assert len(busy) == 4  # four tables
    assert plan["idle_ranks"] == tuple(sorted(set(range(6)) - busy))
    assert planned("table_wise", 1)["idle_ranks"] == ()


@pytest.mark.parametrize("sharding", KINDS)
def test_a_plan_is_the_same_each_time_and_comes_back_from_its_file(sharding: str, tmp_path: Path) -> None:
    plan = layouts.planned(towers(), sharding, 3)
    assert plan == layouts.planned(towers(), sharding, 3)
    save_plan(plan, tmp_path / "plan.json")
    assert open_plan(tmp_path / "plan.json") == plan


def test_a_plan_that_knows_nothing_of_hosts_can_be_opened(tmp_path: Path) -> None:
    plan = layouts.planned(towers(), "table_wise", 3)
    content = as_dict(plan)
    for load in content["ranks"]:
        del load["host_bytes"], load["host_capacity_bytes"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert open_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("sharding", KINDS)
def test_tables_that_do_not_fit_are_refused_in_one_line(sharding: str) -> None:
    model = towers(rows=10**12, dim=128)  # 512 TB of weights
    with pytest.raises(
        TooLargeError, match="the tables do not fit on 2 ranks of cpu: a rank needs "
    ) as error:
        layouts.planned(model, sharding, 2, "sgd")
    assert "\n" not in str(error.value)
    copy = pickle.loads(pickle.dumps(error.value))  # as it goes to other ranks
    assert (str(copy), vars(copy)) == (str(error.value), vars(error.value))
