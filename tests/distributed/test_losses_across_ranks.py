"""Losses whose rows and candidates lie on several ranks, against the same loss in one process."""

import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, small_dataset, train_small
from trainer.model.losses import bayesian_personalised_ranking, multi_positive_softmax

pytestmark = pytest.mark.distributed

ROWS, ITEMS, DIM = 6, 9, 4
LOSSES = {"softmax": multi_positive_softmax, "bpr": bayesian_personalised_ranking}


def problem():
    """Vectors, positives (row 0 has two, on the first and the last rank), known pairs and log_q."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(ROWS, DIM, generator=generator)
    candidates = torch.randn(ITEMS, DIM, generator=generator)
    positives = torch.tensor([[0, 0, 1, 2, 3, 4, 5], [0, 8, 4, 2, 8, 8, 1]])
    known = torch.cat([positives, torch.tensor([[1, 1, 5], [0, 8, 7]])], dim=1)
    return query, candidates, positives, known, -torch.rand(ITEMS, generator=generator)


def loss_and_gradients(world, name, row_counts, candidate_counts):
    query, candidates, positives, known, log_q = problem()
    first = sum(row_counts[: world.rank])
    mine = slice(first, first + row_counts[world.rank])
    own_query = query[mine].clone().requires_grad_()
    own_candidates = candidates.split(candidate_counts)[world.rank].clone().requires_grad_()
    local = [pairs[:, (pairs[0] >= mine.start) & (pairs[0] < mine.stop)] for pairs in (positives, known)]
    for pairs in local:
        pairs[0] -= mine.start
    gathered = world.gather_rows(own_candidates, candidate_counts)
    losses = LOSSES[name](own_query, gathered, *local, log_q)
    losses.sum().backward()
    return losses.detach(), own_query.grad, own_candidates.grad


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("row_counts", "candidate_counts"),
    [((3, 3), (4, 5)), ((1, 5), (9, 0)), ((6, 0, 0), (3, 3, 3)), ((2, 0, 3, 1), (0, 2, 1, 6))],
    ids=str,
)
def test_rows_and_candidates_may_lie_anywhere(name, row_counts, candidate_counts):
    query, candidates, positives, known, log_q = problem()
    query.requires_grad_()
    candidates.requires_grad_()
    losses = LOSSES[name](query, candidates, positives, known, log_q)
    losses.sum().backward()
    ranks = run_on_ranks(len(row_counts), loss_and_gradients, name, row_counts, candidate_counts)
    for place, expected in enumerate((losses.detach(), query.grad, candidates.grad)):
        torch.testing.assert_close(torch.cat([rank[place] for rank in ranks]), expected)


def shares_and_gradients(world, row_counts, candidate_counts):
    query, candidates, positives, known, log_q = problem()
    counts = torch.bincount(positives[0])
    first = sum(candidate_counts[: world.rank])
    mine = slice(first, first + candidate_counts[world.rank])
    own_query = query.split(row_counts)[world.rank].clone().requires_grad_()
    own_candidates = candidates[mine].clone().requires_grad_()
    local = [pairs[:, (pairs[1] >= mine.start) & (pairs[1] < mine.stop)] for pairs in (positives, known)]
    for pairs in local:
        pairs[1] -= mine.start
    gathered = world.gather_rows(own_query, row_counts)
    losses = multi_positive_softmax(gathered, own_candidates, *local, log_q[mine], counts, world.all_gather)
    losses.sum().backward()
    return losses.detach(), own_query.grad, own_candidates.grad


@pytest.mark.parametrize(
    ("row_counts", "candidate_counts"),
    [((3, 3), (4, 5)), ((1, 5), (9, 0)), ((6, 0, 0), (3, 3, 3)), ((2, 0, 3, 1), (0, 2, 1, 6))],
    ids=str,
)
def test_shares_of_the_candidates_add_up_to_the_loss_of_all(row_counts, candidate_counts):
    query, candidates, positives, known, log_q = problem()
    query.requires_grad_()
    candidates.requires_grad_()
    losses = multi_positive_softmax(query, candidates, positives, known, log_q)
    losses.sum().backward()
    ranks = run_on_ranks(len(row_counts), shares_and_gradients, row_counts, candidate_counts)
    torch.testing.assert_close(torch.stack([rank[0] for rank in ranks]).sum(0), losses.detach())
    for place, expected in ((1, query.grad), (2, candidates.grad)):
        torch.testing.assert_close(torch.cat([rank[place] for rank in ranks]), expected)


WEIGHTS = [0.5, 2.0, 1.0, 1.5, 3.0, 0.25, 1.0]
NEGATIVES, NEGATIVE_WEIGHTS = [[0, 0, 1, 4], [1, 7, 8, 3]], [1.0, 0.5, 2.0, 0.25]


def inside(pairs, weights, mine):
    kept = (pairs[1] >= mine.start) & (pairs[1] < mine.stop)
    local = pairs[:, kept]
    local[1] -= mine.start
    return local, weights[kept]


def weighed_shares_and_gradients(world, row_counts, candidate_counts):
    query, candidates, positives, known, log_q = problem()
    weights, negatives = torch.tensor(WEIGHTS), torch.tensor(NEGATIVES)
    negative_weights = torch.tensor(NEGATIVE_WEIGHTS)
    counts = torch.zeros(ROWS).index_add(0, positives[0], weights)
    counts.index_add_(0, negatives[0], negative_weights)
    first = sum(candidate_counts[: world.rank])
    mine = slice(first, first + candidate_counts[world.rank])
    own_query = query.split(row_counts)[world.rank].clone().requires_grad_()
    own_candidates = candidates[mine].clone().requires_grad_()
    local, local_weights = inside(positives, weights, mine)
    local_negatives, local_negative_weights = inside(negatives, negative_weights, mine)
    seen, _ = inside(known, torch.ones(known.shape[1]), mine)
    losses = multi_positive_softmax(
        world.gather_rows(own_query, row_counts),
        own_candidates,
        local,
        seen,
        log_q[mine],
        counts,
        world.all_gather,
        weights_P=local_weights,
        negatives_2M=local_negatives,
        negative_weights_M=local_negative_weights,
    )
    losses.sum().backward()
    return losses.detach(), own_query.grad, own_candidates.grad


@pytest.mark.parametrize(
    ("row_counts", "candidate_counts"),
    [((3, 3), (4, 5)), ((1, 5), (9, 0)), ((2, 0, 3, 1), (0, 2, 1, 6))],
    ids=str,
)
def test_shares_of_weighed_positives_and_explicit_negatives_add_up_too(row_counts, candidate_counts):
    query, candidates, positives, known, log_q = problem()
    query.requires_grad_()
    candidates.requires_grad_()
    losses = multi_positive_softmax(
        query,
        candidates,
        positives,
        known,
        log_q,
        weights_P=torch.tensor(WEIGHTS),
        negatives_2M=torch.tensor(NEGATIVES),
        negative_weights_M=torch.tensor(NEGATIVE_WEIGHTS),
    )
    losses.sum().backward()
    ranks = run_on_ranks(len(row_counts), weighed_shares_and_gradients, row_counts, candidate_counts)
    torch.testing.assert_close(torch.stack([rank[0] for rank in ranks]).sum(0), losses.detach())
    for place, expected in ((1, query.grad), (2, candidates.grad)):
        torch.testing.assert_close(torch.cat([rank[place] for rank in ranks]), expected)


LEADS = [50.0, 89.0, 120.0, 500.0]


def leads_and_gradients(world, candidate_counts):
    """Losses and gradients in float32 of rows whose positives are far above all negatives."""
    query, candidates, positives = far_ahead(torch.float32)
    first = sum(candidate_counts[: world.rank])
    mine = slice(first, first + candidate_counts[world.rank])
    own_candidates = candidates[mine].clone().requires_grad_()
    local = positives[:, (positives[1] >= mine.start) & (positives[1] < mine.stop)]
    local[1] -= mine.start
    counts = torch.ones(len(LEADS), dtype=torch.int64)
    losses = multi_positive_softmax(query, own_candidates, local, local, None, counts, world.all_gather)
    losses.sum().backward()
    return losses.detach(), query.grad, own_candidates.grad


def far_ahead(dtype):
    """One row for each lead over 1,000 negatives of equal score."""
    query = torch.diag(torch.tensor(LEADS, dtype=dtype)).requires_grad_()
    candidates = torch.cat([torch.eye(len(LEADS), dtype=dtype), torch.zeros(1000, len(LEADS), dtype=dtype)])
    return query, candidates, torch.arange(len(LEADS)).expand(2, -1)


@pytest.mark.parametrize("candidate_counts", [(2, 1002), (0, 1004), (500, 4, 500)], ids=str)
def test_far_leads_have_the_gradient_of_double_precision_wherever_candidates_lie(candidate_counts):
    query, candidates, positives = far_ahead(torch.float64)
    candidates.requires_grad_()
    losses = multi_positive_softmax(query, candidates, positives, positives)
    losses.sum().backward()
    assert (losses > 0).all()
    assert losses[-1] < 1e-200
    ranks = run_on_ranks(len(candidate_counts), leads_and_gradients, candidate_counts)
    found = [
        torch.stack([rank[0] for rank in ranks]).sum(0),
        torch.stack([rank[1] for rank in ranks]).sum(0),
        torch.cat([rank[2] for rank in ranks]),
    ]
    for here, there in zip(found, (losses.detach(), query.grad, candidates.grad), strict=True):
        # Below 1e-36 a float32 loses digits, and then all of them.
        torch.testing.assert_close(here.double(), there, rtol=1e-4, atol=1e-36)


def test_in_batch_candidates_need_the_correction_by_popularity(tmp_path):
    # Item n is liked in proportion to 1 / (5 + n), so popular items stand in most batches as negatives and,
    # uncorrected, are pushed down (Yi et al., RecSys 2019). Here that costs about a tenth of NDCG.
    folder = small_dataset(tmp_path)
    in_batch = "--loss.candidates in_batch --batches.rows interaction --batches.size 32"
    ndcg = {}
    for logq in ("true", "false"):
        config = configured(in_batch, f"--run.epochs 15 --run.seed 2 --loss.logq {logq}")
        ndcg[logq] = run_on_ranks(2, train_small, config, folder)[0].metrics["ndcg@10"]
    assert ndcg["true"] > 1.04 * ndcg["false"]
