"""What a checkpoint holds of a fused Adam, by the names that TorchRec and FBGEMM give to it.

FBGEMM asserts that its Adam is not on CPU; without the assertions its tables can be made there, though not
looked up. That one module is compiled without them, in a process of its own: `python -O` would compile all of
torch anew.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.errors import UserError
from trainer.sharding.optimizer_state import _states_by_table

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import importlib.util
import json
import sys
import torch

spec = importlib.util.find_spec("fbgemm_gpu.split_table_batched_embeddings_ops_training")
source = spec.loader.get_data(spec.origin)
spec.loader.get_code = lambda name: compile(source, spec.origin, "exec", optimize=1)
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

from tests import layouts
from trainer.distributed.world import join_world
from trainer.model.towers import TwoTowers
from trainer.sharding.optimizer_state import optimizer_state, set_step
from trainer.sharding.private_api import fused_tables
from trainer.sharding.shard import shard
from trainer.sharding.torchrec_plan import sharding_plan

with join_world("cpu"):
    towers = TwoTowers({"user": 6}, {"item": 5}, 8, partitions={"user": 2})
    plan = sharding_plan(layouts.planned(towers, "table_wise"), towers, "cpu", 1)
    model, optimizer = shard(
        towers,
        plan,
        device=torch.device("cpu"),
        optimizer="adam_fused",
        learning_rates={"user": 0.1, "item": 0.1},
        dense_learning_rate=0.1,
        weight_decay=0.0,
    )
    state = optimizer_state(model, optimizer, "adam_fused")
    set_step(optimizer, 7)
    steps = [[int(tables.iter), int(tables.iter_cpu)] for tables in fused_tables(optimizer)]
    print(json.dumps([{key: list(value.size()) for key, value in state.items()}, steps]))
"""


def test_a_checkpoint_holds_both_means_of_a_fused_adam_and_its_step_is_set() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    state, steps = json.loads(ended.stdout.splitlines()[-1])
    user, item = "query.embeddings.embedding_bags.user", "candidate.embeddings.embedding_bags.item"
    shapes = {user: [6, 8], item: [5, 8]}
    assert state == {
        f"optimizer.{key}.weight.{mean}": shape
        for key, shape in shapes.items()
        for mean in ("first", "second")
    }
    assert steps == [[7, 7], [7, 7]]


def test_a_state_that_has_another_name_now_is_not_left_out_of_a_checkpoint() -> None:
    key = "query.embeddings.embedding_bags.user.weight"
    means = {"user.momentum1": torch.zeros(2, 4), "user.exp_avg_sq": torch.zeros(2, 4)}
    assert set(_states_by_table({key: means}, "adam_fused")[key]) == {"first", "second"}
    renamed = {"user.momentum1": torch.zeros(2, 4), "user.variance": torch.zeros(2, 4)}
    with pytest.raises(UserError, match=f"adam_fused has a state variance of {key}, which no checkpoint"):
        _states_by_table({key: renamed}, "adam_fused")
