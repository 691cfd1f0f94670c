"""Losses against plain Python loops, their gradients against finite differences, and their limits."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from trainer.batching.candidates import sampled
from trainer.model.losses import (
    bayesian_personalised_ranking,
    binary_cross_entropy,
    mean_squared_error,
    multi_positive_softmax,
)

Loss = Callable[..., torch.Tensor]
RANKING = [multi_positive_softmax, bayesian_personalised_ranking]

POSITIVES = [(0, 1), (0, 4), (1, 0), (2, 3), (2, 0), (2, 2)]
SEEN = [*POSITIVES, (1, 2), (1, 5)]
LOG_Q = torch.tensor([-0.1, -0.5, -1.0, -2.0, -3.0, 0.0], dtype=torch.float64)


def pairs(chosen: list[tuple[int, int]]) -> torch.Tensor:
    return torch.tensor(chosen, dtype=torch.int64).reshape(-1, 2).T


def vectors(seed: int = 0, queries: int = 3, candidates: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(rows, 4, dtype=torch.float64, generator=generator, requires_grad=True)
        for rows in (queries, candidates)
    )


def softmax_by_hand(
    scores: list[list[float]], log_q: list[float], seen: list[tuple[int, int]]
) -> list[float]:
    """Minus log of e^positive / (e^positive + sum over negatives of e^score / q), averaged by row."""
    found = []
    for row, row_scores in enumerate(scores):
        negatives = [
            math.exp(score) / math.exp(log_q[column])
            for column, score in enumerate(row_scores)
            if (row, column) not in seen
        ]
        each = [
            -math.log(math.exp(row_scores[column]) / (math.exp(row_scores[column]) + sum(negatives)))
            for positive_row, column in POSITIVES
            if positive_row == row
        ]
        found.append(sum(each) / len(each))
    return found


def ranking_by_hand(
    scores: list[list[float]], log_q: list[float], seen: list[tuple[int, int]]
) -> list[float]:
    """Mean of -log sigmoid(positive - negative) over negatives weighted by 1 / q, averaged by row."""
    found = []
    for row, row_scores in enumerate(scores):
        each = []
        for positive_row, positive in POSITIVES:
            if positive_row != row:
                continue
            total, weights = 0.0, 0.0
            for column, score in enumerate(row_scores):
                if (row, column) in seen:
                    continue
                weight = 1 / math.exp(log_q[column])
                total -= weight * math.log(1 / (1 + math.exp(score - row_scores[positive])))
                weights += weight
            each.append(total / weights)
        found.append(sum(each) / len(each))
    return found


BY_HAND = [(multi_positive_softmax, softmax_by_hand), (bayesian_personalised_ranking, ranking_by_hand)]


@pytest.mark.parametrize(("loss", "by_hand"), BY_HAND)
@pytest.mark.parametrize("log_q", [None, LOG_Q])
@pytest.mark.parametrize("seen", [POSITIVES, SEEN])
def test_a_ranking_loss_equals_a_plain_loop(loss: Loss, by_hand, log_q, seen) -> None:
    query, candidates = vectors()
    found = loss(query, candidates, pairs(POSITIVES), pairs(seen), log_q)
    plain_log_q = [0.0] * 6 if log_q is None else log_q.tolist()
    assert found.tolist() == pytest.approx(by_hand((query @ candidates.T).tolist(), plain_log_q, seen))


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("log_q", [None, LOG_Q])
def test_the_gradient_of_a_ranking_loss_is_that_of_finite_differences(loss: Loss, log_q) -> None:
    assert torch.autograd.gradcheck(
        lambda query, candidates: loss(query, candidates, pairs(POSITIVES), pairs(SEEN), log_q), vectors()
    )


@pytest.mark.parametrize("loss", RANKING)
def test_pairs_may_be_in_any_order_and_seen_ones_repeated(loss: Loss) -> None:
    query, candidates = vectors()
    expected = loss(query, candidates, pairs(POSITIVES), pairs(SEEN), LOG_Q)
    found = loss(query, candidates, pairs(POSITIVES[::-1]), pairs([*SEEN, *SEEN[::-1]]), LOG_Q)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", RANKING)
def test_the_probability_of_a_seen_candidate_changes_nothing(loss: Loss) -> None:
    query, candidates = vectors()
    changed = LOG_Q.clone()
    changed[1] -= 3  # candidate 1 is the positive of row 0 and a negative of rows 1 and 2
    before = loss(query, candidates, pairs(POSITIVES), pairs(SEEN), LOG_Q)
    after = loss(query, candidates, pairs(POSITIVES), pairs(SEEN), changed)
    assert float(after[0]) == pytest.approx(float(before[0]))
    assert abs(float(after[1] - before[1])) > 1e-3


@pytest.mark.parametrize("loss", RANKING)
def test_a_seen_candidate_gets_no_gradient_from_its_row(loss: Loss) -> None:
    query, candidates = vectors()
    loss(query, candidates, pairs(POSITIVES), pairs(SEEN))[1].backward()
    # Row 1 has positive 0 and has seen 2 and 5 as well: only 0, 1, 3 and 4 are compared.
    moved = (candidates.grad != 0).any(1).tolist()
    assert moved == [True, True, False, True, True, False]


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("log_q", [None, LOG_Q])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_row_that_has_seen_every_candidate_has_no_loss_and_a_zero_gradient(loss: Loss, log_q, kind) -> None:
    query, candidates = (side.detach().to(kind).requires_grad_() for side in vectors())
    everything = [(0, column) for column in range(6)]
    log_q = None if log_q is None else log_q.to(kind)
    losses = loss(query, candidates, pairs(POSITIVES), pairs([*SEEN, *everything]), log_q)
    losses.sum().backward()
    assert float(losses[0]) == 0
    assert query.grad[0].tolist() == [0] * 4
    assert torch.isfinite(query.grad).all()
    assert torch.isfinite(candidates.grad).all()
    assert (query.grad[1] != 0).all()


@pytest.mark.parametrize("loss", RANKING)
def test_large_scores_neither_overflow_nor_vanish(loss: Loss) -> None:
    query = torch.tensor([[1.0]], requires_grad=True)
    candidates = torch.tensor([[-500.0], [500.0]])
    found = loss(query, candidates, pairs([(0, 0)]), pairs([(0, 0)]))
    # The negative is 1,000 nats ahead of the positive.
    assert float(found) == pytest.approx(1000)
    found.sum().backward()
    assert query.grad.tolist() == [[1000.0]]


@pytest.mark.parametrize("loss", RANKING)
def test_no_rows_have_no_losses_but_keep_the_graph(loss: Loss) -> None:
    _, candidates = vectors()
    query = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    losses = loss(query, candidates, pairs([]), pairs([]), LOG_Q)
    assert losses.shape == (0,)
    losses.sum().backward()  # a rank without rows still takes part in the backward pass
    assert candidates.grad.abs().sum() == 0


@pytest.mark.parametrize("loss", RANKING)
def test_candidates_that_are_certain_need_no_correction(loss: Loss) -> None:
    query, candidates = vectors()
    certain = torch.zeros(6, dtype=torch.float64)
    torch.testing.assert_close(
        loss(query, candidates, pairs(POSITIVES), pairs(SEEN), certain),
        loss(query, candidates, pairs(POSITIVES), pairs(SEEN)),
    )


@pytest.mark.parametrize("loss", RANKING)
def test_a_growing_sample_approaches_the_whole_catalogue(loss: Loss) -> None:
    """With the correction a sample's loss is close to the catalogue's; without it, it is far too small."""
    items, own = 2000, np.array([3, 700])
    query, candidates = vectors(1, queries=1, candidates=items)
    positives = pairs([(0, 3), (0, 700)])
    whole = float(loss(query, candidates, positives, positives))
    share = np.full(items, 1 / items)
    errors, uncorrected = [], []
    for draws in (50, 500, 20_000):
        found = [
            sampled(
                own,
                np.ones(items, int),
                1,
                1000,
                draw_chances=share,
                cumulative_chances=np.cumsum(share),
                draws=draws,
                generator=np.random.default_rng(seed),
            )
            for seed in range(40)
        ]
        values = [sample_loss(loss, query, candidates, sample, own, sample.log_q) for sample in found]
        plain = [sample_loss(loss, query, candidates, sample, own, None) for sample in found]
        errors.append(float(np.sqrt(np.mean((np.array(values) - whole) ** 2))))
        uncorrected.append(whole - float(np.mean(plain)))
    # The error falls with the root of the sample, until 20,000 draws hold all of 2,000 items.
    assert errors[2] < 0.002 < errors[1] < errors[0] / 2
    if loss is multi_positive_softmax:
        # The logarithm of the share that is missing: 50 of 2,000 items are one in forty.
        assert uncorrected[0] == pytest.approx(math.log(40), rel=0.15)


def sample_loss(loss: Loss, query, candidates, sample, own, log_q) -> float:
    positions, present = sample.positions(own)
    assert present.all()
    chosen = pairs([(0, int(position)) for position in positions])
    correction = None if log_q is None else torch.from_numpy(log_q)
    return float(loss(query, candidates[torch.from_numpy(sample.items)], chosen, chosen, correction))


def test_squared_error_is_that_of_each_rows_own_candidate() -> None:
    query, candidates = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.5], [2.0, 2.0]])
    # Scores 3 + 1 = 4 and 2; values 5 and 2.5.
    assert mean_squared_error(query, candidates, torch.tensor([5.0, 2.5])).tolist() == [1.0, 0.25]


def test_cross_entropy_is_minus_the_log_of_the_labels_chance() -> None:
    query, candidates = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.5], [2.0, 2.0]])
    found = binary_cross_entropy(query, candidates, torch.tensor([1.0, 0.0]))
    chance = [1 / (1 + math.exp(-4)), 1 / (1 + math.exp(-2))]
    assert found.tolist() == pytest.approx([-math.log(chance[0]), -math.log(1 - chance[1])])


@pytest.mark.parametrize("loss", [mean_squared_error, binary_cross_entropy])
def test_the_gradient_of_a_pointwise_loss_is_that_of_finite_differences(loss: Loss) -> None:
    values = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda query, candidates: loss(query, candidates, values), vectors(candidates=3)
    )


@pytest.mark.parametrize("lead", [50, 80, 89, 120, 500])
@pytest.mark.parametrize("candidates", [3, 5, 4000])
def test_a_lead_of_any_size_has_the_gradient_of_double_precision(lead: float, candidates: int) -> None:
    """Positives `lead`, `lead / 2` and `lead / 1000` nats above the best negative, in rows of their own."""
    query, vectors = torch.tensor([[1.0], [0.5], [0.001]]), torch.linspace(-1, 0, candidates).unsqueeze(1)
    vectors[0] = lead
    positives = pairs([(0, 0), (1, 0), (2, 0)])
    found = loss_and_gradients(query, vectors, positives)
    expected = reference_softmax(query.double(), vectors.double(), positives)
    for here, there in zip(found, expected, strict=True):
        # Below 1e-36 a float32 loses digits, and then all of them.
        torch.testing.assert_close(here.double(), there, rtol=1e-4, atol=1e-36)


def test_a_row_whose_positives_lead_by_different_sizes_has_finite_gradients() -> None:
    query = torch.ones(1, 1)
    candidates = torch.tensor([[500.0], [120.0], [89.0], [1.0], *[[0.0]] * 50])
    positives = pairs([(0, column) for column in range(4)])
    found = loss_and_gradients(query, candidates, positives)
    expected = reference_softmax(query.double(), candidates.double(), positives)
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here.double(), there, rtol=1e-5, atol=1e-36)


def loss_and_gradients(
    query: torch.Tensor, candidates: torch.Tensor, positives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, candidates = query.clone().requires_grad_(), candidates.clone().requires_grad_()
    losses = multi_positive_softmax(query, candidates, positives, positives)
    losses.sum().backward()
    return losses.detach(), query.grad, candidates.grad


def reference_softmax(
    query: torch.Tensor, candidates: torch.Tensor, positives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same loss by its formula, with the gradients of autograd."""
    query, candidates = query.clone().requires_grad_(), candidates.clone().requires_grad_()
    scores = query @ candidates.T
    negatives = scores.index_put(tuple(positives), scores.new_tensor(-torch.inf)).logsumexp(1)
    each = functional.softplus(negatives[positives[0]] - scores[tuple(positives)])
    losses = torch.zeros(len(query), dtype=query.dtype).index_add(0, positives[0], each)
    losses = losses / torch.bincount(positives[0], minlength=len(query))
    losses.sum().backward()
    return losses.detach(), query.grad, candidates.grad


WEIGHTS = torch.tensor([0.5, 2.0, 1.5, 3.0, 0.25, 1.0], dtype=torch.float64)
NEGATIVES = [(0, 0), (2, 4), (0, 5)]  # row 1 has none
NEGATIVE_WEIGHTS = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)


def weighed_by_hand(loss: Loss, scores: list[list[float]], query, candidates, log_q) -> list[float]:
    """The weighted mean of each positive's own loss and of softplus(negative - mean positive), by loops."""
    found = []
    for row in range(3):
        mine = [place for place, (owner, _) in enumerate(POSITIVES) if owner == row]
        total = sum(float(WEIGHTS[place]) for place in mine)
        anchor = sum(float(WEIGHTS[place]) * scores[row][POSITIVES[place][1]] for place in mine) / total
        summed = 0.0
        for place in mine:
            alone = (row, POSITIVES[place][1])
            others = pairs([alone, *((other, 0) for other in range(3) if other != row)])
            summed += float(WEIGHTS[place]) * float(loss(query, candidates, others, pairs(SEEN), log_q)[row])
        for (owner, item), weight in zip(NEGATIVES, NEGATIVE_WEIGHTS.tolist(), strict=True):
            if owner == row:
                summed += weight * math.log(1 + math.exp(scores[row][item] - anchor))
                total += weight
        found.append(summed / total)
    return found


@pytest.mark.parametrize("loss", RANKING)
@pytest.mark.parametrize("log_q", [None, LOG_Q])
def test_weights_and_explicit_negatives_make_a_weighted_mean(loss: Loss, log_q) -> None:
    query, candidates = vectors()
    found = loss(
        query,
        candidates,
        pairs(POSITIVES),
        pairs(SEEN),
        log_q,
        weights_P=WEIGHTS,
        negatives_2M=pairs(NEGATIVES),
        negative_weights_M=NEGATIVE_WEIGHTS,
    )
    scores = (query @ candidates.T).tolist()
    with torch.no_grad():
        assert found.tolist() == pytest.approx(weighed_by_hand(loss, scores, query, candidates, log_q))


@pytest.mark.parametrize("loss", RANKING)
def test_the_gradient_with_weights_and_explicit_negatives_is_that_of_finite_differences(loss: Loss) -> None:
    extra = {"negatives_2M": pairs(NEGATIVES), "negative_weights_M": NEGATIVE_WEIGHTS}
    assert torch.autograd.gradcheck(
        lambda query, candidates: loss(
            query, candidates, pairs(POSITIVES), pairs(SEEN), LOG_Q, weights_P=WEIGHTS, **extra
        ),
        vectors(),
    )


@pytest.mark.parametrize("loss", RANKING)
def test_a_weight_of_two_is_a_positive_that_stands_twice(loss: Loss) -> None:
    query, candidates = vectors()
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    found = loss(query, candidates, pairs(POSITIVES), pairs(SEEN), LOG_Q, weights_P=weights)
    twice = loss(query, candidates, pairs([*POSITIVES, POSITIVES[1]]), pairs(SEEN), LOG_Q)
    torch.testing.assert_close(found, twice)
    negatives = {"negatives_2M": pairs([NEGATIVES[0]] * 2), "negative_weights_M": torch.ones(2).double()}
    once = {"negatives_2M": pairs([NEGATIVES[0]]), "negative_weights_M": torch.full((1,), 2.0).double()}
    first, second = (
        loss(query, candidates, pairs(POSITIVES), pairs(SEEN), **each) for each in (negatives, once)
    )
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("loss", RANKING)
def test_an_explicit_negative_is_pushed_down_more_than_an_unknown_item(loss: Loss) -> None:
    query = torch.ones(1, 1, dtype=torch.float64)
    candidates = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    extra = {"negatives_2M": pairs([(0, 2)]), "negative_weights_M": torch.ones(1).double()}
    loss(query, candidates, pairs([(0, 0)]), pairs([(0, 0)]), **extra).sum().backward()
    positive, unknown, negative = candidates.grad[:, 0].tolist()
    assert positive < 0 < unknown < negative
