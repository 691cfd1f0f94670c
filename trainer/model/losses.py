"""Losses: pure functions of tensors that return one loss a row, in nats (`mse`: squared units of the value).

A *positive* is an observed (row, candidate) pair. A *seen* pair is no negative: the row's positives and
the other training items of the row's user. An *explicit negative* is a pair that the user has judged low: it
competes as any negative does, and has a term of its own, see `trainer.model.explicit_negatives`. Facts about
each loss are in `trainer.facts.losses`.

Names end in the shape of the tensor:
    B: rows, each with a query vector.
    C: candidates.
    D: width of a vector.
    P: positives of all rows together.
    K: seen pairs of all rows together.
    M: explicit negatives of all rows together.
"""
# Shapes are capitals.
# ruff: noqa: N803, N806

import math
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.facts.losses import loss_spec
from trainer.model.explicit_negatives import AllGather, explicit_negative_losses

LOG_2 = math.log(2)


def loss_function(name: str) -> Callable[..., torch.Tensor]:
    """Return the function of a loss by its name.

    Raises:
        ConfigError: If there is no loss of that name.
    """
    return resolve_name(loss_spec(name).function)


def multi_positive_softmax(
    query_BD: torch.Tensor,
    candidates_CD: torch.Tensor,
    positives_2P: torch.Tensor,
    seen_2K: torch.Tensor,
    log_q_C: torch.Tensor | None = None,
    counts_B: torch.Tensor | None = None,
    all_gather: AllGather | None = None,
    weights_P: torch.Tensor | None = None,
    negatives_2M: torch.Tensor | None = None,
    negative_weights_M: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the softmax of each positive against its row's negatives, averaged over the row's positives.

    The loss of a positive is softplus(logsumexp over negatives of (score - log_q) - score of the positive):
    a row's other positives do not compete with it, and the correction applies to negatives alone, since a
    positive is in its own row's candidate set with certainty. With weights w of positives p and v of explicit
    negatives n, the loss of a row is

        (sum over p of w_p loss_p + sum over n of v_n loss_n) / (sum of w + sum of v)

    where loss_n is that of `explicit_negative_losses`.

    The candidates may be split over processes, each of which has the queries of all rows: then `candidates`,
    `positives`, `seen` and `log_q` are those of this process, and the losses and the gradient of the queries
    are its summands.

    Args:
        query_BD: Query vectors, float32.
        candidates_CD: Candidate vectors, float32.
        positives_2P: Row indices, then candidate indices, int64. A row without positives has a loss of NaN.
        seen_2K: (row, candidate) pairs that are not negatives, int64; includes all positives.
        log_q_C: Natural log of the chance that a candidate is in the set; None: no correction.
        counts_B: Positives of each row in all processes or, with weights, the sum of all of the row's; None:
            those given.
        all_gather: Gathers values of all processes; None: there are no others.
        weights_P: Weights of the positives, above 0; None: all weigh 1.
        negatives_2M: Explicit negatives, (row, candidate) as in `positives`; None: there are none.
        negative_weights_M: Their weights.

    Returns:
        Losses of the rows, (B,), in nats.

    Source: Yi et al., RecSys 2019 (logQ correction); Liang et al., WWW 2018 (multinomial likelihood);
        Khrylchenko et al., RecSys 2025 (no correction of the positive); Shoeybi et al., 2019 (split
        candidates).
    """
    if counts_B is None:
        counts_B = _totals_by_row(positives_2P, weights_P, negatives_2M, negative_weights_M, len(query_BD))
    losses_B = _MultiPositiveSoftmax.apply(
        query_BD, candidates_CD, positives_2P, seen_2K, log_q_C, counts_B, all_gather, weights_P
    )
    if negatives_2M is None or negative_weights_M is None:
        return losses_B
    return losses_B + explicit_negative_losses(
        query_BD,
        candidates_CD,
        positives_2P,
        negatives_2M,
        negative_weights_M,
        counts_B,
        weights_P=weights_P,
        all_gather=all_gather,
    )


class _MultiPositiveSoftmax(torch.autograd.Function):
    """The loss with a gradient derived by hand: C x B scores are written twice instead of a dozen times.

    With s the scores, n_b the number of positives of row b, N_b its negatives, sigma the sigmoid, and u_p the
    weight of positive p (1 without weights; with them n_b is the sum of the row's weights):

        w_cb = exp(s_cb - log q_c) for c in N_b, otherwise 0         W_b = sum over c of w_cb
        g_p  = log W_b - s_p for a positive p of row b        L_b = sum over p of u_p softplus(g_p) / n_b

        dL_b/ds_cb = w_cb / W_b * S_b / n_b   for c in N_b           S_b = sum over p of u_p sigma(g_p)
        dL_b/ds_p  = -u_p sigma(g_p) / n_b    for a positive p

    Both are S_b / (W_b n_b) times one matrix, which has w_cb at negatives and -W_b u_p sigma(g_p) / S_b at
    positives. It takes the place of the scores in the forward pass; dL/dquery and dL/dcandidates are its
    products with the candidates and with the scaled queries. All w and W are divided by the largest w_cb of
    the row.

    Under autocast the products are of its type, and everything between them is as precise as the vectors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BD: torch.Tensor,
        candidates_CD: torch.Tensor,
        positives_2P: torch.Tensor,
        seen_2K: torch.Tensor,
        log_q_C: torch.Tensor | None,
        counts_B: torch.Tensor,
        all_gather: AllGather | None,
        weights_P: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.width, ctx.dtype = query_BD.shape[1], query_BD.dtype
        device = query_BD.device.type
        factor_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else ctx.dtype
        # On CPU a product of rows of odd length, such as the bias column makes them, takes up to twice as
        # long, and so does one with the shorter side first. Powers of 2 take a third of the time of exp.
        query_BD, candidates_CD = (
            functional.pad(each, (0, -each.shape[1] % 8)).to(factor_dtype)
            for each in (query_BD, candidates_CD)
        )
        scores_CB = (candidates_CD @ query_BD.T).to(ctx.dtype).div_(LOG_2)
        # Indexing the flattened scores is two to four times as fast as indexing rows and columns.
        rows_P = positives_2P[0]
        flat_P = _flat(positives_2P, len(query_BD))
        flat_K = flat_P if seen_2K is positives_2P else _flat(seen_2K, len(query_BD))
        positive_scores_P = scores_CB.view(-1).index_select(0, flat_P)
        if log_q_C is not None:
            scores_CB -= (log_q_C / LOG_2).unsqueeze(1)
        scores_CB.view(-1).index_fill_(0, flat_K, -torch.inf)
        weights_CB, largest_B, total_B = _weights(scores_CB, all_gather)
        gaps_P = ((total_B.log2() + largest_B).index_select(0, rows_P) - positive_scores_P) * LOG_2
        slopes_P = _weighted(gaps_P.sigmoid(), weights_P)
        slopes_B = torch.zeros_like(total_B).index_add_(0, rows_P, slopes_P)
        slopes_B = slopes_B if all_gather is None else all_gather(slopes_B).sum(0)
        # Slopes may be as small as a float can be, and total / slopes would overflow. A power of 2 in both
        # factors prevents that without rounding; no scaled sum of slopes lies between 0 and `smallest`.
        limits = torch.finfo(ctx.dtype)
        scale, smallest = limits.tiny**-0.5, limits.tiny**0.5 * limits.eps
        ratios_B = total_B / (slopes_B * scale).clamp_min_(smallest)
        positive_weights_P = (slopes_P * scale) * ratios_B.index_select(0, rows_P)
        weights_CB.view(-1).index_add_(0, flat_P, positive_weights_P, alpha=-1)
        factors_B = slopes_B / total_B.clamp_min(limits.tiny) / counts_B
        ctx.save_for_backward(query_BD, candidates_CD, weights_CB, factors_B)
        return _mean_by_row(_weighted(functional.softplus(gaps_P), weights_P), rows_P, counts_B)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the name of `ctx`
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        query_BD, candidates_CD, weights_CB, factors_B = ctx.saved_tensors
        factors_B1 = (gradients[0] * factors_B).unsqueeze(1)
        weights_CB = weights_CB.to(query_BD.dtype)
        query_gradient_BD = (weights_CB.T @ candidates_CD).to(ctx.dtype) * factors_B1
        candidate_gradient_CD = (weights_CB @ (query_BD * factors_B1).to(query_BD.dtype)).to(ctx.dtype)
        width = ctx.width
        return query_gradient_BD[:, :width], candidate_gradient_CD[:, :width], *[None] * 6


def bayesian_personalised_ranking(
    query_BD: torch.Tensor,
    candidates_CD: torch.Tensor,
    positives_2P: torch.Tensor,
    seen_2K: torch.Tensor,
    log_q_C: torch.Tensor | None = None,
    counts_B: torch.Tensor | None = None,
    weights_P: torch.Tensor | None = None,
    negatives_2M: torch.Tensor | None = None,
    negative_weights_M: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the loss of ranking a positive above a negative, over all of the row's negatives at once.

    Rendle's loss draws one negative; this is its expectation over the candidate set, in which a candidate
    that was unlikely to be drawn weighs more. Takes P x C memory: meant for rows of one positive. Weights and
    explicit negatives enter as in `multi_positive_softmax`.

    Args:
        query_BD: Query vectors.
        candidates_CD: Candidate vectors.
        positives_2P: As in `multi_positive_softmax`.
        seen_2K: As in `multi_positive_softmax`.
        log_q_C: As in `multi_positive_softmax`.
        counts_B: As in `multi_positive_softmax`.
        weights_P: As in `multi_positive_softmax`.
        negatives_2M: As in `multi_positive_softmax`.
        negative_weights_M: As in `multi_positive_softmax`.

    Returns:
        Losses of the rows, (B,), in nats.

    Source: Rendle et al., UAI 2009.
    """
    scores_BC = (query_BD @ candidates_CD.T).to(query_BD.dtype)  # under autocast the product is less precise
    rows_P = positives_2P[0]
    if log_q_C is None:
        weights_BC = torch.ones_like(scores_BC)
    else:
        weights_BC = torch.exp(-log_q_C).expand_as(scores_BC).clone()
    weights_BC[tuple(seen_2K)] = 0
    weights_BC = weights_BC / weights_BC.sum(1, keepdim=True).clamp_min(torch.finfo(weights_BC.dtype).tiny)
    gaps_PC = scores_BC[rows_P] - scores_BC[tuple(positives_2P)].unsqueeze(1)
    losses_P = _weighted((weights_BC[rows_P] * functional.softplus(gaps_PC)).sum(1), weights_P)
    if counts_B is None:
        counts_B = _totals_by_row(positives_2P, weights_P, negatives_2M, negative_weights_M, len(query_BD))
    losses_B = _mean_by_row(losses_P, rows_P, counts_B)
    if negatives_2M is None or negative_weights_M is None:
        return losses_B
    return losses_B + explicit_negative_losses(
        query_BD,
        candidates_CD,
        positives_2P,
        negatives_2M,
        negative_weights_M,
        counts_B,
        weights_P=weights_P,
    )


def mean_squared_error(
    query_BD: torch.Tensor, candidates_BD: torch.Tensor, values_B: torch.Tensor
) -> torch.Tensor:
    """Compute the squared difference of score and value.

    Args:
        query_BD: Query vectors.
        candidates_BD: Vector of each row's own item.
        values_B: Values to fit.

    Returns:
        Losses of the rows, (B,), in squared units of the value.
    """
    return ((query_BD * candidates_BD).sum(1) - values_B) ** 2


def binary_cross_entropy(
    query_BD: torch.Tensor, candidates_BD: torch.Tensor, labels_B: torch.Tensor
) -> torch.Tensor:
    """Compute the cross entropy of the score as a logit.

    Args:
        query_BD: Query vectors.
        candidates_BD: Vector of each row's own item.
        labels_B: 0 or 1.

    Returns:
        Losses of the rows, (B,), in nats.
    """
    scores_B = (query_BD * candidates_BD).sum(1)
    return functional.binary_cross_entropy_with_logits(scores_B, labels_B, reduction="none")


def _totals_by_row(
    positives_2P: torch.Tensor,
    weights_P: torch.Tensor | None,
    negatives_2M: torch.Tensor | None,
    negative_weights_M: torch.Tensor | None,
    rows: int,
) -> torch.Tensor:
    """Return the number of each row's positives or, with weights, the sum of all of the row's weights."""
    # torch.bincount would make the CPU wait for a GPU.
    rows_P = positives_2P[0]
    weights_P = torch.ones_like(rows_P) if weights_P is None else weights_P
    totals_B = weights_P.new_zeros(rows).index_add_(0, rows_P, weights_P)
    if negatives_2M is None or negative_weights_M is None:
        return totals_B
    return totals_B.to(negative_weights_M.dtype).index_add_(0, negatives_2M[0], negative_weights_M)


def _weighted(values_P: torch.Tensor, weights_P: torch.Tensor | None) -> torch.Tensor:
    return values_P if weights_P is None else values_P * weights_P


def _flat(pairs_2P: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the positions of (row, candidate) pairs in flattened (C, B) scores."""
    return pairs_2P[1] * rows + pairs_2P[0]


def _weights(
    scores_CB: torch.Tensor, all_gather: AllGather | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Replace scores by 2 ** (score - the row's largest); return these, the largest and their sum.

    With split candidates, largest and sum are over those of all processes.
    """
    # A row that has seen every candidate has no largest score.
    lowest = torch.finfo(scores_CB.dtype).min
    if len(scores_CB):
        largest_B = scores_CB.amax(0).clamp_min_(lowest)
    else:
        largest_B = scores_CB.new_full(scores_CB.shape[1:], lowest)
    weights_CB = scores_CB.sub_(largest_B).exp2_()
    total_B = weights_CB.sum(0)
    if all_gather is None:
        return weights_CB, largest_B, total_B
    # R: processes.
    largest_RB, total_RB = all_gather(torch.stack([largest_B, total_B])).unbind(1)
    overall_B = largest_RB.amax(0)
    total_B = (total_RB * torch.exp2(largest_RB - overall_B)).sum(0)
    return weights_CB.mul_(torch.exp2(largest_B - overall_B)), overall_B, total_B


def _mean_by_row(losses_P: torch.Tensor, rows_P: torch.Tensor, counts_B: torch.Tensor) -> torch.Tensor:
    return losses_P.new_zeros(len(counts_B)).index_add(0, rows_P, losses_P) / counts_B
