"""Installed versions that lack a private name are refused with one sentence, before training begins."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torchrec.distributed import comm

import trainer
from trainer.distributed.world import join_world
from trainer.errors import UserError
from trainer.sharding import private_api

TRAINER = Path(trainer.__file__).parent
BELOW = {"distributed/world.py": ["torch.distributed.distributed_c10d._set_pg_timeout"]}
"""What is used in rooms below sharding, which may not import from it."""


def refused() -> str:
    with pytest.raises(UserError) as error:
        private_api.check()
    return str(error.value)


def test_the_installed_versions_have_everything() -> None:
    private_api.check()


@pytest.mark.parametrize("place", private_api.ATTRIBUTES)
def test_a_name_that_is_gone_is_named_with_its_use_and_the_versions(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_api, "ATTRIBUTES", {place: {"_renamed": "holds the tables"}})
    message = refused()
    assert message.startswith(f"{place} has no _renamed, which holds the tables. Installed are torch ")
    assert torch.__version__ in message
    assert "known to work are torch 2.11" in message
    assert "\n" not in message


def test_a_method_that_is_removed_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SplitTableBatchedEmbeddingBagsCodegen, "set_optimizer_step")
    assert "has no set_optimizer_step(), which sets the step by which Adam corrects its means" in refused()


def test_a_name_of_a_module_that_is_removed_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(comm, "_INTRA_PG")
    assert refused().startswith("torchrec.distributed.comm has no _INTRA_PG, which outlives")


@pytest.mark.parametrize("name", private_api.OPERATORS)
def test_an_operator_that_takes_other_arguments_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    why, (first, second, *others) = private_api.OPERATORS[name]
    monkeypatch.setattr(private_api, "OPERATORS", {name: (why, (second, first, *others))})
    assert f"{name}, which {why}, takes other arguments (" in refused()
    monkeypatch.setattr(private_api, "OPERATORS", {f"{name}_of_old": (why, ())})
    assert f"torch.ops.fbgemm has no {name}_of_old, which {why}" in refused()


REMOVED = """
import sys, torch.distributed.optim as optim
del optim._apply_optimizer_in_backward
from trainer.cli import main
sys.exit(main(["train", "--data.name", "synthetic", "--device", "cpu"]))
"""


def test_a_training_with_other_versions_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REMOVED]
    ended = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(TRAINER.parent)}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert ended.stderr.startswith("error: cannot import name '_apply_optimizer_in_backward'")
    assert "Installed are torch " in ended.stderr
    assert ended.stderr.count("\n") == 1


def private_imports(source: str) -> Iterator[str]:
    """Modules and names with a leading underscore that a file takes from torch, TorchRec or FBGEMM."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                libraries = name.split(".")[0] in ("torch", "torchrec", "fbgemm_gpu")
                if libraries and ("._" in name or name.startswith("fbgemm_gpu")):
                    yield name
        if isinstance(node, ast.Attribute) and node.attr in (
            *("_emb_modules", "_emb_module", "_embedding_shardings", "_lookups", "_env", "_optimizer"),
            *("_INTRA_PG", "_CROSS_PG", "_init_from_local_shards_and_global_metadata"),
        ):
            own = isinstance(node.value, ast.Name) and node.value.id == "self"
            yield from [] if own else [node.attr]


def test_private_names_are_used_in_one_module_alone() -> None:
    found = {
        path.relative_to(TRAINER).as_posix(): [*private_imports(path.read_text())]
        for path in TRAINER.rglob("*.py")
    }
    assert {
        name: names for name, names in found.items() if names and name != "sharding/private_api.py"
    } == BELOW


def test_groups_of_hosts_are_forgotten_with_the_world_that_they_were_made_in() -> None:
    with join_world("cpu"):
        private_api.forget_groups_of_another_world()
        made = comm.intra_and_cross_node_pg(torch.device("cpu"))
        private_api.forget_groups_of_another_world()
        assert made == (comm._INTRA_PG, comm._CROSS_PG)
        assert None not in made
    with join_world("cpu"):
        private_api.forget_groups_of_another_world()
        assert (comm._INTRA_PG, comm._CROSS_PG) == (None, None)
        again = comm.intra_and_cross_node_pg(torch.device("cpu"))
        torch.distributed.barrier(again[0])
    private_api.forget_groups_of_another_world()
