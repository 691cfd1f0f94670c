"""Towers with what they take in: the parts whose vectors, side by side, rank the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from trainer.data.features import Ragged
from trainer.data.inputs import Inputs, keyed_jagged
from trainer.model.fold_in import Histories, fold_in
from trainer.model.towers import TwoTowers


@dataclass(frozen=True)
class Served:
    """One pair of towers and the features of its two sides; sharded, on every rank alike, or whole."""

    towers: TwoTowers
    user_inputs: Inputs
    item_inputs: Inputs


class SideBySide(nn.Module):
    """Learned towers, which training alone calls, and perhaps closed-form ones, sharded by the same plan."""

    def __init__(self, learned: TwoTowers, closed: TwoTowers | None = None) -> None:
        super().__init__()
        self.learned = learned
        self.closed = closed

    def forward(
        self, queries: KeyedJaggedTensor, candidates: KeyedJaggedTensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Query and candidate vectors of the learned towers."""
        return self.learned(queries, candidates)


def query_vectors(served: Sequence[Served], rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Query vectors of the users in `rows`, (len(rows), sum of the parts' widths)."""
    with torch.no_grad():
        return torch.cat(
            [part.towers.queries(keyed_jagged(part.user_inputs, rows).to(device)) for part in served], dim=1
        )


def candidate_vectors(served: Sequence[Served], rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Candidate vectors of the items in `rows`, (len(rows), sum of the parts' widths)."""
    with torch.no_grad():
        return torch.cat(
            [part.towers.candidates(keyed_jagged(part.item_inputs, rows).to(device)) for part in served],
            dim=1,
        )


def query_from_history(
    served: Sequence[Served], histories: Histories, item_vectors: torch.Tensor
) -> torch.Tensor:
    """Query vectors of people by what they have alone, (B, sum of the parts' widths).

    The learned towers have a row for each user, which somebody new does not have: his vector is fitted. The
    closed-form ones look up any history.

    Args:
        served: whole, on the device of `item_vectors`; the learned towers first.
        histories: items of each of B people, no item twice for the same person; none: nothing is known.
        item_vectors: (items, sum of the parts' widths) of the catalogue, as `candidate_vectors` gives them.
    """
    learned, *closed = served
    candidates = item_vectors[:, : learned.towers.output_dim]
    bias = learned.towers.candidate.bias_table is not None
    parts = [fold_in(histories, candidates, learned.towers.unit, bias)]
    lengths, items = (each.cpu().numpy() for each in histories)
    for part in closed:
        (table,) = part.user_inputs
        given = Ragged(np.concatenate([[0], np.cumsum(lengths)]), items)
        looked_up = Served(part.towers, {table: given}, part.item_inputs)
        parts.append(query_vectors([looked_up], np.arange(len(lengths)), item_vectors.device))
    return torch.cat(parts, dim=1)
