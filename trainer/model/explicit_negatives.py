"""Explicit negatives: pairs that a user has judged low, in the losses that rank.

Names end in the shape of the tensor:
    B: rows, each with a query vector.
    C: candidates.
    D: width of a vector.
    P: positives of all rows together.
    M: explicit negatives of all rows together.
"""
# Shapes are capitals.
# ruff: noqa: N803, N806

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

AllGather: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From this process's (...) values those of all processes, (processes, ...)."""


def explicit_negative_losses(
    query_BD: torch.Tensor,
    candidates_CD: torch.Tensor,
    positives_2P: torch.Tensor,
    negatives_2M: torch.Tensor,
    negative_weights_M: torch.Tensor,
    counts_B: torch.Tensor,
    *,
    weights_P: torch.Tensor | None = None,
    all_gather: AllGather | None = None,
) -> torch.Tensor:
    """Compute the loss of ranking explicit negatives below the row's positives, on average.

        sum over n of v_n softplus(s_n - a_b) / counts_b        a_b = sum over p of w_p s_p / sum of w

    for the explicit negatives n of row b, with weights v, and its positives p, with weights w. For a row of
    one positive it is the pairwise loss softplus(s_n - s_p).

    Args:
        query_BD: Query vectors.
        candidates_CD: Candidate vectors; those of this process if they are split.
        positives_2P: As in `trainer.model.losses.multi_positive_softmax`.
        negatives_2M: As in `multi_positive_softmax`.
        negative_weights_M: As in `multi_positive_softmax`.
        counts_B: What the sums are divided by.
        weights_P: As in `multi_positive_softmax`.
        all_gather: As in `multi_positive_softmax`.

    Returns:
        Losses of the rows, (B,), in nats; with split candidates, the summands of this process.

    Source: Rendle et al., UAI 2009, for the pairs.
    """
    rows_P, rows_M = positives_2P[0], negatives_2M[0]
    scores_P = _pair_scores(query_BD, candidates_CD, positives_2P)
    ones_P = torch.ones_like(scores_P) if weights_P is None else weights_P.to(scores_P.dtype)
    zeros_B = scores_P.new_zeros(len(counts_B))
    sums_2B = torch.stack([zeros_B.index_add(0, rows_P, each) for each in (scores_P * ones_P, ones_P)])
    if all_gather is not None:
        sums_2B = _SumOfProcesses.apply(sums_2B, all_gather)
    means_B = sums_2B[0] / sums_2B[1]
    gaps_M = _pair_scores(query_BD, candidates_CD, negatives_2M) - means_B.index_select(0, rows_M)
    losses_M = functional.softplus(gaps_M) * negative_weights_M
    return zeros_B.index_add(0, rows_M, losses_M) / counts_B


class _SumOfProcesses(torch.autograd.Function):
    """Sum over processes; as the loss is one too, so is its gradient by what each process has put in."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, all_gather: AllGather) -> torch.Tensor:
        ctx.all_gather = all_gather
        return all_gather(values).sum(0)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the name of `ctx`
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        return ctx.all_gather(gradients[0].contiguous()).sum(0), None


def _pair_scores(query_BD: torch.Tensor, candidates_CD: torch.Tensor, pairs_2P: torch.Tensor) -> torch.Tensor:
    """Return the scores of (row, candidate) pairs, (P,)."""
    return (query_BD.index_select(0, pairs_2P[0]) * candidates_CD.index_select(0, pairs_2P[1])).sum(1)
