"""Rows scaled to one length, with a gradient derived by hand."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def normalize(vectors: torch.Tensor, length: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Scale rows to one length; a zero row, that of an empty history, stays zero and gets no gradient.

    Args:
        vectors: Rows, (B, D).
        length: A number, or a tensor of one.
    """
    return _Normalize.apply(vectors, torch.as_tensor(length, dtype=vectors.dtype))


class _Normalize(torch.autograd.Function):
    """The same with a gradient derived by hand, in four passes over wide rows where torch takes seven.

    With y = l x / |x| for a row x, length l and incoming gradient g, and x' = x / |x|:

        dL/dx = l / |x| (g - (g . x') x')        dL/dl = sum over rows of g . x'
    """

    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        inverse = norms.reciprocal().masked_fill_(norms == 0, 0)
        factors = inverse * length
        ctx.save_for_backward(vectors, inverse, factors)
        return vectors * factors

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the name of `ctx`
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        vectors, inverse, factors = ctx.saved_tensors
        along = (gradients[0] * vectors).sum(1, keepdim=True) * inverse
        across = torch.addcmul(gradients[0] * factors, vectors, along * inverse * factors, value=-1)
        return across, along.sum() if ctx.needs_input_grad[1] else None
