"""Losses: pure functions of tensors that return one loss a row, in nats (or squared units for `mse`).

A *positive* is a (row, candidate) pair that was observed; a *known* pair is one that is no negative: the
row's positives and whatever else the row's user has in the training part.
"""

import torch
from torch.nn import functional


def multi_positive_softmax(
    query: torch.Tensor,
    candidates: torch.Tensor,
    positives: torch.Tensor,
    known: torch.Tensor,
    log_q: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax of each positive against the row's negatives, averaged over the row's positives.

    The loss of a positive is softplus(logsumexp over negatives of (score - log_q) - score of the positive):
    a row's other positives do not compete with it, and the correction applies to negatives alone, since a
    positive is in its own row's candidate set with certainty.

    Args:
        query: (B, D) float32.  candidates: (C, D) float32.
        positives: (2, P) int64, row < B above candidate < C; every row has at least one.
        known: (2, K) int64 pairs that are no negatives; holds all positives.
        log_q: (C,) natural log of the chance that a candidate is in the set; None: no correction.
    Returns: (B,) nats.
    Raises: ValueError if a row has no positive.
    Source: Yi et al., RecSys 2019 (logQ correction); Liang et al., WWW 2018 (multinomial likelihood);
        Khrylchenko et al., RecSys 2025 (no correction of the positive).
    """
    scores = query @ candidates.T
    rows, _ = positives
    negative = _negative_mass(scores, known, log_q)
    losses = functional.softplus(negative[rows] - scores[tuple(positives)])
    return _mean_by_row(losses, rows, len(query))


def bayesian_personalised_ranking(
    query: torch.Tensor,
    candidates: torch.Tensor,
    positives: torch.Tensor,
    known: torch.Tensor,
    log_q: torch.Tensor | None = None,
) -> torch.Tensor:
    """Chance that a negative outranks a positive, over all of the row's negatives at once.

    Rendle's loss draws one negative; this is its expectation over the candidate set, in which a candidate
    that was unlikely to be drawn weighs more. Takes P x C memory: meant for rows of one positive.

    Args, Returns, Raises: as `multi_positive_softmax`.
    Source: Rendle et al., UAI 2009.
    """
    scores = query @ candidates.T
    rows, _ = positives
    weights = torch.ones_like(scores) if log_q is None else torch.exp(-log_q).expand_as(scores).clone()
    weights[tuple(known)] = 0
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    gaps = scores[rows] - scores[tuple(positives)].unsqueeze(1)
    return _mean_by_row((weights[rows] * functional.softplus(gaps)).sum(1), rows, len(query))


def mean_squared_error(query: torch.Tensor, candidates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Squared difference of score and value.

    Args:
        query: (B, D).  candidates: (B, D), row i's candidate in row i.  values: (B,).
    Returns: (B,) squared units of the value.
    """
    return ((query * candidates).sum(1) - values) ** 2


def binary_cross_entropy(query: torch.Tensor, candidates: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the score as a logit.

    Args:
        query: (B, D).  candidates: (B, D), row i's candidate in row i.  labels: (B,) 0 or 1.
    Returns: (B,) nats.
    """
    scores = (query * candidates).sum(1)
    return functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")


def _negative_mass(scores: torch.Tensor, known: torch.Tensor, log_q: torch.Tensor | None) -> torch.Tensor:
    logits = scores if log_q is None else scores - log_q
    nothing = torch.tensor(-torch.inf, dtype=scores.dtype, device=scores.device)
    return torch.logsumexp(logits.index_put(tuple(known), nothing), dim=1)


def _mean_by_row(losses: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    positives = torch.bincount(rows, minlength=count)
    if count and int(positives.min()) == 0:
        raise ValueError(f"row {int(positives.argmin())} of {count} has no positive")
    return losses.new_zeros(count).index_add(0, rows, losses / positives[rows])
