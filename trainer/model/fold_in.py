"""Query vectors of people who were not in the training, found from what they have, as training would."""

import torch
from torch.nn import functional

from trainer.model.losses import multi_positive_softmax

STEPS, LEARNING_RATE = 100, 0.1
SCORES = 2**22
"""Scores that stand in memory at a time, 4 bytes each and as much again for their gradients."""

Histories = tuple[torch.Tensor, torch.Tensor]
"""Items of each of B people: lengths (B,) and the concatenated item rows (total,), both integers."""


def fold_in(histories: Histories, candidates: torch.Tensor, unit: bool, bias: bool) -> torch.Tensor:
    """The query vectors that minimise the softmax loss of the given histories, all items being fixed.

    From the direction of the sum of a history's item vectors, STEPS steps of Adam whose learning rate falls
    linearly to 0, on the loss of `multi_positive_softmax` with the history as positives and the catalogue as
    candidates. People are fitted side by side: nobody's vector depends on who else is in the call.

    Args:
        histories: no item twice for the same person.
        candidates: (N, D) candidate vectors of the catalogue.
        unit: queries are unit vectors; otherwise their length is free, and nothing keeps the fit from
            following a short history too closely.
        bias: the last column of `candidates` is a bias, and that of queries is 1.
    Returns: (B, D) float32; for an empty history zeros, but for the column of ones.
    Source: folding in, Deerwester et al., JASIS 1990; here on the loss of Liang et al., WWW 2018.
    """
    lengths, items = histories
    size = max(1, SCORES // len(candidates))
    parts = lengths.split(size)
    owned = items.split([int(part.sum()) for part in parts])
    blocks = zip(parts, owned, strict=True)
    return torch.cat([_fit_block(part, own, candidates.detach(), unit, bias) for part, own in blocks])


def _fit_block(
    lengths: torch.Tensor, items: torch.Tensor, candidates: torch.Tensor, unit: bool, bias: bool
) -> torch.Tensor:
    queries = candidates.new_zeros(len(lengths), candidates.shape[1])
    if bias:
        queries[:, -1] = 1
    some = lengths > 0
    if not some.any():
        return queries
    queries[some] = _fit(lengths[some], items, candidates, unit, bias)
    return queries


@torch.enable_grad()
def _fit(
    lengths: torch.Tensor, items: torch.Tensor, candidates: torch.Tensor, unit: bool, bias: bool
) -> torch.Tensor:
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=items.device), lengths)
    positives = torch.stack([rows, items.long()])
    vectors = candidates[:, :-1] if bias else candidates
    sums = vectors.new_zeros(len(lengths), vectors.shape[1]).index_add_(0, rows, vectors[items])
    free = functional.normalize(sums, dim=1).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=LEARNING_RATE)

    def queries() -> torch.Tensor:
        own = functional.normalize(free, dim=1) if unit else free
        return functional.pad(own, (0, 1), value=1.0) if bias else own

    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        # A sum, so that a person's gradient is his own whoever is fitted beside him.
        multi_positive_softmax(queries(), candidates, positives, positives).sum().backward()
        optimizer.step()
    return queries().detach()
