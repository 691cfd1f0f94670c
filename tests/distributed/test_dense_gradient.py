"""Gradients through TorchRec's sharded lookup of dense tables, as the default training has it at 4 ranks.

They pass FBGEMM's `dense_embedding_codegen_lookup_function`, of which torch 2.13 warns that "an autograd
kernel was not registered to the Autograd key(s) but we are trying to backprop through it. This may lead to
silently incorrect behavior". The gradients are right today; a release in which they are not fails here.
"""

import re
import warnings

import pytest
import torch
from torchrec import KeyedJaggedTensor

from tests import layouts
from tests.distributed.ranks import run_on_ranks
from trainer.distributed.world import World
from trainer.model.towers import TwoTowers
from trainer.sharding.model_state import table_name
from trainer.sharding.optimizers import zero_gradients
from trainer.sharding.table_values import fill_tables, normal_block

pytestmark = pytest.mark.distributed

RANKS, ROWS_OF_RANK, DIM = 4, 6, 8
ROWS = {"user": 9, "tags": 7, "item": 5}
WARNED = {"fbgemm::dense_embedding_codegen_lookup_function"}
WARNING = re.compile(r"(\S+): an autograd kernel was not registered to the Autograd key")


def initial(table: str, rows: slice) -> torch.Tensor:
    return normal_block(3, table, rows, DIM, 1.0)


def bags(rank: int) -> dict[str, list[list[int]]]:
    """Ids of every bag that a rank looks up; some bags of tags are empty, others hold an id twice."""
    generator = torch.Generator().manual_seed(rank)

    def drawn(table: str, count: int) -> list[int]:
        return torch.randint(0, ROWS[table], (count,), generator=generator).tolist()

    return {
        "user": [drawn("user", 1) for _ in range(ROWS_OF_RANK)],
        "tags": [drawn("tags", row % 4) for row in range(ROWS_OF_RANK)],
        "item": [drawn("item", 1) for _ in range(ROWS_OF_RANK)],
    }


def features(rank: int, names: list[str]) -> KeyedJaggedTensor:
    chosen = [bag for name in names for bag in bags(rank)[name]]
    ids = torch.tensor([row for bag in chosen for row in bag], dtype=torch.int64)
    lengths = torch.tensor([len(bag) for bag in chosen], dtype=torch.int32)
    return KeyedJaggedTensor(names, ids, lengths=lengths, stride=ROWS_OF_RANK)


def gradients_on_rank(world: World) -> tuple[dict[str, torch.Tensor], set[str]]:
    """Gradients of this rank's tables, and the operators of which torch has warned."""
    towers = TwoTowers({"user": ROWS["user"], "tags": ROWS["tags"]}, {"item": ROWS["item"]}, DIM, "dot")
    rates = dict.fromkeys(ROWS, 0.1)
    model, optimizer = layouts.sharded(towers, "table_wise", "adam", rates, world_size=world.size)
    fill_tables(model, initial)
    zero_gradients(optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        query, candidates = model(features(world.rank, ["user", "tags"]), features(world.rank, ["item"]))
        ((query * candidates).sum() * world.size).backward()
    found = {
        str(table_name(key)): value.grad.view(value.shape).clone()
        for key, value in model.named_parameters()
        if value.numel() and value.grad is not None
    }
    named = (WARNING.search(str(each.message)) for each in caught)
    return found, {match[1] for match in named if match}


def expected() -> dict[str, torch.Tensor]:
    """The same gradients in float64 by torch alone: a row's score is (user + tags / sqrt(n)) . item."""
    weights = {
        name: initial(name, slice(0, -(-rows // 16) * 16))[:rows].double().requires_grad_()
        for name, rows in ROWS.items()
    }
    for rank in range(RANKS):
        for user, tags, item in zip(*bags(rank).values(), strict=True):
            vectors = weights["user"][user].sum(0) + weights["tags"][tags].sum(0) / max(len(tags), 1) ** 0.5
            (vectors * weights["item"][item].sum(0)).sum().backward()
    return {name: value.grad for name, value in weights.items()}


def test_gradients_of_dense_tables_at_4_ranks_are_those_in_float64() -> None:
    ranks = run_on_ranks(RANKS, gradients_on_rank)
    found = {name: gradient for own, _ in ranks for name, gradient in own.items()}
    assert sum(len(own) for own, _ in ranks) == len(found) == len(ROWS)
    for name, gradient in expected().items():
        torch.testing.assert_close(found[name].double(), gradient, rtol=1e-6, atol=1e-6)


def test_torch_warns_of_no_other_operator() -> None:
    warned = set().union(*(operators for _, operators in run_on_ranks(RANKS, gradients_on_rank)))
    assert warned <= WARNED
