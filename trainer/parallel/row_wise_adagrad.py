"""Row-wise Adagrad as FBGEMM's kernel does it, for sizes at which that is slow."""

import torch

FEW, CACHED = 2**18, 2**20
"""Values of a step's gradient up to which FBGEMM's fixed costs are more than all of this; values of a table
that passes over all of it find in a core's cache."""


def is_faster(lookups: int, rows: int, width: int) -> bool:
    """Whether this is faster than FBGEMM's kernel on a CPU, for a table of this size."""
    return lookups * width <= FEW or (2 * lookups >= rows and rows * width <= CACHED)


def row_wise_adagrad(
    weights: torch.Tensor,
    sums: torch.Tensor,
    ids: torch.Tensor,
    gradient: torch.Tensor,
    rate: float,
    epsilon: float,
) -> None:
    """Update the looked-up rows in place.

    Args:
        weights: (rows, D) float32.
        sums: (rows,) of each row's mean squared gradients so far.
        ids: (B,) rows, some perhaps several times.
        gradient: (B, D) of each lookup; those of one row are added before they are squared.
        rate, epsilon: learning rate, and what is added to the root of `sums`.
    Source: Duchi et al., JMLR 2011; one sum a row: Gupta et al., JMLR 2014.
    """
    if 2 * len(ids) >= len(weights):  # most rows: to add nothing to the others takes less than to find them
        total = torch.zeros_like(weights).index_add_(0, ids, gradient)
        sums += _mean_square(total)
        weights.addcmul_(total, _multiple(sums, rate, epsilon))
        return
    rows, places = torch.unique(ids, return_inverse=True)
    total = gradient.new_zeros(len(rows), gradient.shape[1]).index_add_(0, places, gradient)
    own = sums.index_select(0, rows) + _mean_square(total)
    sums.index_copy_(0, rows, own)
    weights.index_add_(0, rows, total.mul_(_multiple(own, rate, epsilon)))


def _mean_square(gradient: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(gradient, dim=1).square_() / gradient.shape[1]


def _multiple(sums: torch.Tensor, rate: float, epsilon: float) -> torch.Tensor:
    """Multiple of a row's gradient by which its weights move, (rows, 1)."""
    return (sums.sqrt() + epsilon).reciprocal_().mul_(-rate).unsqueeze(1)
