"""Rows, gradients and updates by FBGEMM's kernels alone, against its modules and against arithmetic."""

from typing import Any

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    DenseTableBatchedEmbeddingBagsCodegen,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from trainer.sharding.fbgemm_cpu import Rows

SIZES = [(40, 8), (60, 4)]
RATE, EPSILON = 0.1, 1e-8
OPTIMIZERS = [EmbOptimType.EXACT_ROWWISE_ADAGRAD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_SGD]


def fused(optimizer: EmbOptimType, sizes: list[tuple[int, int]] = SIZES, **options: Any) -> Any:
    """FBGEMM's tables; their values are normal, and the same in every call."""
    torch.manual_seed(0)
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(*size, EmbeddingLocation.HOST, ComputeDevice.CPU) for size in sizes],
        optimizer=optimizer,
        learning_rate=RATE,
        eps=EPSILON,
        pooling_mode=PoolingMode.SUM,
        **options,
    )
    for table in tables.split_embedding_weights():
        table.normal_()
    return tables


@pytest.mark.parametrize("lookups", [30, 200], ids=["few", "all"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
def test_every_step_is_that_of_fbgemm(optimizer: EmbOptimType, lookups: int) -> None:
    theirs, tables = fused(optimizer), fused(optimizer)
    rows, start = Rows(tables), tables.weights_host.detach().clone()
    for step in range(4):
        for each in (theirs, tables):
            each.set_learning_rate(RATE / (1 + step))
        ids = torch.randint(0, 40, (2, lookups))  # some of them several times
        gradient = torch.randn(lookups, 8 + 4)
        vectors = theirs(ids.view(-1), torch.arange(2 * lookups + 1))
        torch.testing.assert_close(rows.look_up(ids), vectors, rtol=0, atol=0)
        vectors.backward(gradient)
        rows.update(ids, gradient)
        torch.testing.assert_close(tables.weights_host, theirs.weights_host, rtol=0, atol=0)
        for own, other in zip(tables.split_optimizer_states(), theirs.split_optimizer_states(), strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=0)
    assert not torch.equal(tables.weights_host, start)


def test_gradients_of_one_row_are_added_before_they_are_squared() -> None:
    tables = fused(EmbOptimType.EXACT_ROWWISE_ADAGRAD, [(2, 4)])
    tables.weights_host.detach().zero_()
    Rows(tables).update(torch.tensor([[1, 1]]), torch.tensor([[1.0, 2.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]]))
    # (1 + 2, 2 + 2) = (3, 4); (9 + 16) / 4 = 6.25; -0.1 / sqrt(6.25) = -0.04 times (3, 4).
    assert tables.split_optimizer_states()[0][0].tolist() == [0.0, 6.25]
    expected = torch.tensor([0.0, 0.0, 0.0, 0.0, -0.12, -0.16, 0.0, 0.0])
    torch.testing.assert_close(tables.weights_host.detach(), expected)


def test_a_gradient_need_not_lie_in_order() -> None:
    straight, turned = fused(EmbOptimType.EXACT_SGD, [(3, 4)]), fused(EmbOptimType.EXACT_SGD, [(3, 4)])
    ids, gradient = torch.tensor([[2, 0, 2, 1]]), torch.randn(4, 4)
    Rows(straight).update(ids, gradient)
    Rows(turned).update(ids, gradient.T.contiguous().T)
    assert torch.equal(straight.weights_host, turned.weights_host)


def test_the_gradient_of_dense_tables_has_each_lookup_in_its_row() -> None:
    tables = DenseTableBatchedEmbeddingBagsCodegen(SIZES, use_cpu=True)
    rows, ids, gradient = Rows(tables), torch.randint(0, 40, (2, 50)), torch.randn(50, 8 + 4)
    expected = [
        torch.zeros(size).index_add_(0, own, part).flatten()
        for size, own, part in zip(SIZES, ids, gradient.split([8, 4], 1), strict=True)
    ]
    torch.testing.assert_close(rows.gradient_of_tables(ids, gradient), torch.cat(expected))
    weights = tables.weights.detach()
    first, second = weights[: 40 * 8].view(40, 8), weights[40 * 8 :].view(60, 4)
    assert torch.equal(rows.look_up(ids), torch.cat([first[ids[0]], second[ids[1]]], 1))
    assert not rows.are_updated


def test_batches_of_any_length_may_follow_each_other() -> None:
    rows = Rows(fused(EmbOptimType.EXACT_SGD))
    for count in (3, 5, 0, 3):
        assert rows.look_up(torch.zeros(2, count, dtype=torch.int64)).shape == (count, 12)


def test_a_row_that_no_table_has_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"(?i)index"):
        Rows(fused(EmbOptimType.EXACT_SGD)).look_up(torch.tensor([[1], [60]]))


def test_what_kernels_leave_to_their_modules_is_not_updated() -> None:
    assert Rows(fused(EmbOptimType.EXACT_ROWWISE_ADAGRAD)).are_updated
    assert not Rows(fused(EmbOptimType.EXACT_ROWWISE_ADAGRAD, weight_decay=0.1)).are_updated
    assert not Rows(fused(EmbOptimType.EXACT_SGD, weights_precision=SparseType.FP16)).are_updated
