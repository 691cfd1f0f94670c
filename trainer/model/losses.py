"""Losses: pure functions of tensors that return one loss a row, in nats (or squared units for `mse`).

A *positive* is a (row, candidate) pair that was observed; a *seen* pair is one that is no negative: the
row's positives and whatever else the row's user has in the training part.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

LOG_2 = math.log(2)
AllGather: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From this process's (...) values those of all processes, (processes, ...)."""


def multi_positive_softmax(
    query: torch.Tensor,
    candidates: torch.Tensor,
    positives: torch.Tensor,
    seen: torch.Tensor,
    log_q: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
    all_gather: AllGather | None = None,
) -> torch.Tensor:
    """Softmax of each positive against the row's negatives, averaged over the row's positives.

    The loss of a positive is softplus(logsumexp over negatives of (score - log_q) - score of the positive):
    a row's other positives do not compete with it, and the correction applies to negatives alone, since a
    positive is in its own row's candidate set with certainty.

    The candidate set may be cut into shares, each in another process that has the queries of all rows: then
    `candidates`, `positives`, `seen` and `log_q` are those of the share, and the losses and the gradient of
    `query` are its summands.

    Args:
        query: (B, D) float32.  candidates: (C, D) float32.
        positives: (2, P) int64, row < B above candidate < C; every row has at least one.
        seen: (2, K) int64 pairs that are no negatives; holds all positives.
        log_q: (C,) natural log of the chance that a candidate is in the set; None: no correction.
        counts: (B,) int64 positives of each row, in all shares; None: those given.
        all_gather: from this share's (...) values those of all, (shares, ...); None: there are no others.
    Returns: (B,) nats.
    Raises: ValueError if a row has no positive.
    Source: Yi et al., RecSys 2019 (logQ correction); Liang et al., WWW 2018 (multinomial likelihood);
        Khrylchenko et al., RecSys 2025 (no correction of the positive); Shoeybi et al., 2019 (shares).
    """
    counts = _checked(_positives_by_row(positives[0], len(query)) if counts is None else counts)
    return _MultiPositiveSoftmax.apply(query, candidates, positives, seen, log_q, counts, all_gather)


class _MultiPositiveSoftmax(torch.autograd.Function):
    """The loss with its gradient by hand: B x C scores are written twice, not a dozen times.

    Under autocast the products are of its type, and everything between them is as precise as the vectors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        candidates: torch.Tensor,
        positives: torch.Tensor,
        seen: torch.Tensor,
        log_q: torch.Tensor | None,
        counts: torch.Tensor,
        all_gather: AllGather | None,
    ) -> torch.Tensor:
        ctx.width, ctx.dtype = query.shape[1], query.dtype
        device = query.device.type
        of_factors = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
        # On CPU products of rows of odd length, as the column of biases makes them, take up to twice as long,
        # and so does the product that has the shorter side first. Powers of 2 take a third of those of e.
        query, candidates = (
            functional.pad(each, (0, -each.shape[1] % 8)).to(of_factors) for each in (query, candidates)
        )
        scores = (candidates @ query.T).to(ctx.dtype).div_(LOG_2)
        # Places in all scores, one after another: to index rows and columns takes two to four times as long.
        rows, places = positives[0], positives[1] * len(query) + positives[0]
        seen_places = places if seen is positives else seen[1] * len(query) + seen[0]
        of_positives = scores.view(-1).index_select(0, places)
        if log_q is not None:
            scores -= (log_q / LOG_2).unsqueeze(1)
        scores.view(-1).index_fill_(0, seen_places, -torch.inf)
        masses, largest, mass = _masses(scores, all_gather)
        gaps = ((mass.log2() + largest).index_select(0, rows) - of_positives) * LOG_2
        # Times one factor a row, `masses` are the gradient of the scores, if in place of each positive stands
        # its share of what pulls the row's positives up, which pushes the row's negatives down.
        pulls = gaps.sigmoid()
        pull = torch.zeros_like(mass).index_add_(0, rows, pulls)
        pull = pull if all_gather is None else all_gather(pull).sum(0)
        # A pull may be as small as a float can be, and mass / pull would overflow. A power of 2 in both
        # factors prevents that and rounds nothing; no scaled sum of pulls lies between 0 and `smallest`.
        limits = torch.finfo(mass.dtype)
        scale, smallest = limits.tiny**-0.5, limits.tiny**0.5 * limits.eps
        ratios = mass / (pull * scale).clamp_min_(smallest)
        shares = (pulls * scale) * ratios.index_select(0, rows)
        masses.view(-1).index_add_(0, places, shares, alpha=-1)
        ctx.save_for_backward(query, candidates, masses, pull / mass.clamp_min(limits.tiny) / counts)
        return _mean_by_row(functional.softplus(gaps), rows, counts)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the name of `ctx`
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        query, candidates, masses, factors = ctx.saved_tensors
        scale = (gradients[0] * factors).unsqueeze(1)
        of_scores = masses.to(query.dtype)
        of_query = (of_scores.T @ candidates).to(ctx.dtype) * scale
        of_candidates = (of_scores @ (query * scale).to(query.dtype)).to(ctx.dtype)
        return of_query[:, : ctx.width], of_candidates[:, : ctx.width], None, None, None, None, None


def bayesian_personalised_ranking(
    query: torch.Tensor,
    candidates: torch.Tensor,
    positives: torch.Tensor,
    seen: torch.Tensor,
    log_q: torch.Tensor | None = None,
) -> torch.Tensor:
    """Chance that a negative outranks a positive, over all of the row's negatives at once.

    Rendle's loss draws one negative; this is its expectation over the candidate set, in which a candidate
    that was unlikely to be drawn weighs more. Takes P x C memory: meant for rows of one positive.

    Args, Returns, Raises: as `multi_positive_softmax`.
    Source: Rendle et al., UAI 2009.
    """
    scores = (query @ candidates.T).to(query.dtype)  # under autocast the product is less precise
    rows, _ = positives
    weights = torch.ones_like(scores) if log_q is None else torch.exp(-log_q).expand_as(scores).clone()
    weights[tuple(seen)] = 0
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    gaps = scores[rows] - scores[tuple(positives)].unsqueeze(1)
    losses = (weights[rows] * functional.softplus(gaps)).sum(1)
    return _mean_by_row(losses, rows, _checked(_positives_by_row(rows, len(query))))


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


def _positives_by_row(rows: torch.Tensor, count: int) -> torch.Tensor:
    return torch.bincount(rows, minlength=count)


def _checked(positives: torch.Tensor) -> torch.Tensor:
    if len(positives) and int(positives.min()) == 0:
        raise ValueError(f"row {int(positives.argmin())} of {len(positives)} has no positive")
    return positives


def _masses(
    scores: torch.Tensor, all_gather: AllGather | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Powers of 2 of (C, B) scores above each row's largest, in their place; that score, and their sum.

    With shares of candidates, largest and sum are those of all of them.
    """
    # A row that knows every candidate has no largest one.
    least = torch.finfo(scores.dtype).min
    largest = scores.amax(0).clamp_min_(least) if len(scores) else scores.new_full(scores.shape[1:], least)
    masses = scores.sub_(largest).exp2_()
    mass = masses.sum(0)
    if all_gather is None:
        return masses, largest, mass
    tops, parts = all_gather(torch.stack([largest, mass])).unbind(1)
    top = tops.amax(0)
    return masses.mul_(torch.exp2(largest - top)), top, (parts * torch.exp2(tops - top)).sum(0)


def _mean_by_row(losses: torch.Tensor, rows: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    return losses.new_zeros(len(positives)).index_add(0, rows, losses) / positives
