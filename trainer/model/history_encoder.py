"""Vectors of ordered histories: what came last counts most.

A *stretch* is a part of a user's items in their order of time; its vectors are those of the candidate tower,
or of a table of their own. The state before a slot is the decaying sum of the vectors before it; one pass
over a stretch gives the states of all of its slots, so that every position of a user is a training row.

Names end in the shape of the tensor:
    S: stretches.
    W: slots of a stretch; shorter stretches are padded at their end, where no state looks.
    T: states of a stretch, W + 1: before each slot, and after the last.
    D: width of a vector.
    B: rows.
    C: items whose vectors are given.
    H: attention heads.
"""
# Shapes are capitals.
# ruff: noqa: N803, N806

import torch
from torch import nn
from torch.nn import functional

from trainer.histories.recency import HOUR
from trainer.histories.slots import Slots

START_DECAY = 0.2
"""First value of the decay by position: an item weighs 0.82 of the one after it."""
START_TIME_DECAY = 0.1
"""First value of the decay by time: the exponent of 1 + the hours between an item and the last one."""
HEADS = 4


class HistoryEncoder(nn.Module):
    """States of ordered histories: decaying sums of item vectors, and attention on top if asked for.

    The weight of an item that stands d places before the next one, and that came h hours before the last, is

        exp(-a (d - 1)) (1 + h) ** -b        for d up to `length`, otherwise 0

    with learned a and b above 0, of which either may be left out. Attention is one causal layer over the same
    items with a learned score for each distance; its output projection starts at zero, so that training
    starts with the decaying sum.

    Source: the weights are those of an exponentially decaying bag; Vaswani et al., NeurIPS 2017 (attention);
        Shaw et al., NAACL 2018 (relative positions).
    """

    def __init__(
        self,
        dim: int,
        length: int,
        by_position: bool = True,
        by_time: bool = False,
        attention: bool = False,
        start_decay: float = START_DECAY,
    ) -> None:
        """Make an encoder.

        Args:
            dim: Width of the vectors.
            length: Most items that a state looks back.
            by_position: Whether weights decay by position.
            by_time: Whether they decay by time.
            attention: Whether to add attention.
            start_decay: First value of the decay by position.
        """
        super().__init__()
        self.length = length
        self.log_decay = nn.Parameter(torch.tensor(start_decay).log()) if by_position else None
        self.log_time_decay = nn.Parameter(torch.tensor(START_TIME_DECAY).log()) if by_time else None
        self.attention = _Attention(dim, length) if attention else None

    def forward(self, vectors_CD: torch.Tensor, slots: Slots) -> torch.Tensor:
        """Return the state of each row, (B, D).

        Args:
            vectors_CD: Vectors of items.
            slots: Histories of the rows.
        """
        S, W = slots.items.shape
        vectors_SWD = vectors_CD.index_select(0, slots.items.flatten()).view(S, W, vectors_CD.shape[1])
        if slots.factors is not None:
            vectors_SWD = vectors_SWD * slots.factors
        states_STD = self._weights(slots) @ vectors_SWD
        if self.attention is not None and W:
            states_STD = states_STD + self.attention(states_STD, vectors_SWD)
        return states_STD.flatten(0, 1).index_select(0, slots.rows)

    def _weights(self, slots: Slots) -> torch.Tensor:
        """Return the weight of each slot in each state, (T, W), or (S, T, W) where they depend on time."""
        distances_TW, within_TW = _distances(slots.items.shape[1], self.length, slots.items.device)
        weights = within_TW.float()
        if self.log_decay is not None:
            weights = weights * torch.exp(-self.log_decay.exp() * (distances_TW - 1).clamp(min=0))
        if self.log_time_decay is not None:
            assert slots.times is not None, "an encoder that decays by time needs times"
            last_ST = functional.pad(slots.times, (1, 0))  # of the last slot before each state
            hours_STW = (last_ST.unsqueeze(2) - slots.times.unsqueeze(1)).clamp(min=0) / HOUR
            weights = weights * torch.exp(-self.log_time_decay.exp() * torch.log1p(hours_STW))
        return weights


class _Attention(nn.Module):
    """One causal layer of attention, from states to the items before them."""

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        nn.init.zeros_(self.output.weight)
        self.by_distance = nn.Parameter(torch.zeros(HEADS, length + 1))
        # A bias of the keys would add one number to all scores of a state, which its softmax takes away
        # again:
        # its gradient is rounding, and Adam would follow it.
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim, bias=False)])

    def forward(self, states_STD: torch.Tensor, vectors_SWD: torch.Tensor) -> torch.Tensor:
        distances_TW, within_TW = _distances(
            vectors_SWD.shape[1], self.by_distance.shape[1] - 1, vectors_SWD.device
        )
        bias_HTW = self.by_distance[:, distances_TW.clamp(0, self.by_distance.shape[1] - 1)]
        bias_HTW = bias_HTW.masked_fill(~within_TW, torch.finfo(bias_HTW.dtype).min)
        states_STD, normed_SWD = self.norms[0](states_STD), self.norms[1](vectors_SWD)
        query, key, value = (
            _heads(each) for each in (self.query(states_STD), self.key(normed_SWD), self.value(vectors_SWD))
        )
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias_HTW)
        # The first state has nothing to look at, and every slot would have the same share of it.
        found = found * within_TW.any(1).view(1, 1, -1, 1)
        return self.output(found.transpose(1, 2).flatten(2))


def _heads(each_SXD: torch.Tensor) -> torch.Tensor:
    return each_SXD.unflatten(2, (HEADS, -1)).transpose(1, 2)


def _distances(W: int, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far before each state a slot stands, (T, W), and where that is from 1 to `length`."""
    distances_TW = torch.arange(W + 1, device=device).unsqueeze(1) - torch.arange(W, device=device)
    return distances_TW, (distances_TW >= 1) & (distances_TW <= length)
