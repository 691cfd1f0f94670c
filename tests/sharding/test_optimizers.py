"""Optimizers by device, and the count of steps by which a fused Adam corrects its means."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchrec.distributed.batched_embedding_kernel import EmbeddingFusedOptimizer
from torchrec.optim.keyed import CombinedOptimizer

from trainer.errors import UserError
from trainer.sharding import optimizers
from trainer.sharding.optimizer_state import _states_by_table, set_step
from trainer.sharding.optimizers import dense_optimizer, set_fused_step
from trainer.sharding.private_api import EmbOptimType

CPU = torch.device("cpu")


class Tables:
    """Stands in for FBGEMM's tables on a GPU, which have two counters and no Adam on CPU.

    Attributes:
        used: The step that each forward pass hands to the kernel, which counts from 1.
    """

    def __init__(self, optimizer: EmbOptimType = EmbOptimType.ADAM) -> None:
        self.optimizer, self.used = optimizer, list[int]()
        self.iter, self.iter_cpu = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)

    def set_optimizer_step(self, step: int) -> None:
        self.iter[0] = step

    def __call__(self) -> None:
        """Count as FBGEMM does in every forward pass, an evaluation's too."""
        if self.iter_cpu.item() == 0:
            self.iter_cpu.fill_(self.iter.cpu().item())
        self.used.append(int(self.iter_cpu.add_(1).item()))
        self.iter.add_(1)


def optimizer_of(tables: Tables) -> CombinedOptimizer:
    """The optimizers as `DistributedModelParallel` nests them."""
    fused: Any = EmbeddingFusedOptimizer.__new__(EmbeddingFusedOptimizer)
    fused._emb_module, fused.params = tables, {}
    combined: Any = CombinedOptimizer.__new__(CombinedOptimizer)
    combined._optims = [("", combined_of(fused))]
    return combined


def combined_of(fused: Any) -> Any:
    inner: Any = CombinedOptimizer.__new__(CombinedOptimizer)
    inner._optims = [("query", fused)]
    return inner


def test_evaluations_do_not_count_as_steps_of_a_fused_adam() -> None:
    tables = Tables()
    optimizer = optimizer_of(tables)
    tables()  # an evaluation before the first step
    for step in range(1, 5):
        set_fused_step(optimizer, step - 1)
        tables()
        if step == 2:
            tables()
            tables()
    assert tables.used == [1, *[1, 2], *[3, 4], *[3, 4]]


@pytest.mark.parametrize("evaluated", [0, 3])
def test_a_fused_adam_resumes_at_the_step_of_the_checkpoint(evaluated: int) -> None:
    tables = Tables()
    for _ in range(evaluated):
        tables()
    set_step(optimizer_of(tables), 40)
    tables()
    assert tables.used[-1] == 41
    assert int(tables.iter) == 41


def test_a_fused_adam_that_begins_anew_forgets_its_steps() -> None:
    tables = Tables()
    for _ in range(3):
        tables()
    set_step(optimizer_of(tables), 0)
    tables()
    assert tables.used[-1] == 1


def test_tables_of_other_optimizers_keep_their_count() -> None:
    tables = Tables(EmbOptimType.EXACT_ROWWISE_ADAGRAD)
    tables()
    set_fused_step(optimizer_of(tables), 7)
    assert int(tables.iter_cpu) == 1


@pytest.mark.parametrize("name", optimizers.ONE_PASS)
def test_an_optimizer_takes_one_pass_where_the_device_can(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    assert dense_optimizer(name, CPU)([weight]).param_groups[0]["fused"]

    def only_elsewhere(*_: Any, fused: bool | None = None, **__: Any) -> Any:
        if fused:
            raise RuntimeError("`fused=True` requires all the params to be on supported devices: ['cpu']")
        return SimpleNamespace(made=name)

    monkeypatch.setattr(optimizers, "DENSE", {name: only_elsewhere})
    assert dense_optimizer(name, CPU)([weight]).made == name


def test_both_moments_of_a_fused_adam_are_saved_by_the_names_that_torchrec_gives_them() -> None:
    key = "learned.query.embeddings.embedding_bags.user.weight"
    first, second = torch.ones(3, 4), torch.full((3, 4), 2.0)
    # As `model.fused_optimizer.state_dict()` has them on a GPU.
    states = {key: {"user.momentum1": first, "user.exp_avg_sq": second}}
    found = _states_by_table(states, "adam_fused")
    assert {name: values[0].tolist() for name, values in found[key].items()} == {
        "first": first.tolist(),
        "second": second.tolist(),
    }


def test_a_state_without_a_name_in_checkpoints_is_refused_rather_than_dropped() -> None:
    states = {"learned.query.embeddings.embedding_bags.user.weight": {"user.momentum3": torch.ones(1)}}
    with pytest.raises(UserError, match="adagrad has a state momentum3 of learned"):
        _states_by_table(states, "adagrad")
