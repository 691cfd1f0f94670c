"""Row-wise Adagrad on looked-up rows, against FBGEMM's kernel."""

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from trainer.parallel.row_wise_adagrad import is_faster, row_wise_adagrad

RATE, EPSILON, DIM = 0.1, 1e-8, 8


@pytest.mark.parametrize(("rows", "lookups"), [(40, 30), (40, 100), (1000, 30)], ids=["most", "all", "few"])
def test_every_step_is_that_of_fbgemm(rows: int, lookups: int) -> None:
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=RATE,
        eps=EPSILON,
        pooling_mode=PoolingMode.SUM,
    )
    generator = torch.Generator().manual_seed(0)
    theirs = kernel.split_embedding_weights()[0]
    theirs.normal_(generator=generator)
    ours, sums = theirs.clone(), torch.zeros(rows)
    for _ in range(5):
        ids = torch.randint(0, min(rows, 60), (lookups,), generator=generator)  # some of them twice
        gradient = torch.randn(lookups, DIM, generator=generator)
        kernel(ids, torch.arange(lookups + 1)).backward(gradient)
        row_wise_adagrad(ours, sums, ids, gradient, RATE, EPSILON)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(sums, kernel.split_optimizer_states()[0][0])


def test_gradients_of_one_row_are_added_before_they_are_squared() -> None:
    weights, sums = torch.zeros(2, 2), torch.zeros(2)
    ids, gradient = torch.tensor([1, 1]), torch.tensor([[1.0, 2.0], [2.0, 2.0]])
    row_wise_adagrad(weights, sums, ids, gradient, 0.1, EPSILON)
    # (1 + 2, 2 + 2) = (3, 4); (9 + 16) / 2 = 12.5; -0.1 / sqrt(12.5) = -0.0282843.
    torch.testing.assert_close(sums, torch.tensor([0.0, 12.5]))
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.0], [-0.0848528, -0.1131371]]))


def test_fbgemm_has_wide_rows_and_what_lies_between() -> None:
    assert is_faster(4096, 10**7, 64)
    assert not is_faster(4096, 10**7, 512)
    assert is_faster(16_384, 6_040, 64)
    assert not is_faster(16_384, 6_040, 512)
    assert not is_faster(16_384, 10**6, 64)
