"""What one rank looks up, scores and compares in one step."""

from dataclasses import dataclass
from typing import Any

import torch
from torchrec import KeyedJaggedTensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of one step: b rows and c candidates looked up, B rows and C candidates scored.

    Attributes:
        queries: query features, stride b.
        candidates: candidate features, stride c: this rank's part of the candidate set, or, for losses on
            values, the item of each row (c = b) where no set is gathered.
        positives: (2, P) int64, row < B above candidate < C.
        positive_counts: (B,) int64 positives of each row, on all ranks.
        seen: (2, K) int64 pairs that are no negatives; holds all positives.
        log_q: (C,) float32 natural log of the chance that a candidate is in the set, or None.
        weights: (B,) float32 weight of each row's loss; 1 on average over all rows of an epoch.
        values: (b,) float32 value of each row's interaction, or None.
        query_counts: b of every rank, where the rows of all are scored, rank by rank; else empty, and B is b.
        candidate_counts: c of every rank, where the candidates of all are scored; else empty, and C is c.
        rows: rows of the step over all ranks.
        interactions: interactions that the step learns from, over all ranks.
        query_part, candidate_part: partition of cut tables in which all ids of a side are; None: in any.
    """

    queries: KeyedJaggedTensor
    candidates: KeyedJaggedTensor
    positives: torch.Tensor
    positive_counts: torch.Tensor
    seen: torch.Tensor
    log_q: torch.Tensor | None
    weights: torch.Tensor
    values: torch.Tensor | None
    query_counts: list[int]
    candidate_counts: list[int]
    rows: int
    interactions: int
    query_part: int | None = None
    candidate_part: int | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        if device.type == "cpu":
            return self
        return self._with(
            {name: value.to(device, non_blocking=True) for name, value in self._tensors().items()}
        )

    def pin_memory(self) -> "Batch":
        """The batch in pinned memory, which a GPU reads while the CPU goes on."""
        return self._with({name: value.pin_memory() for name, value in self._tensors().items()})

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until what is now queued on a stream, other than the one that made it, is done."""
        for value in self._tensors().values():
            value.record_stream(stream)

    def _tensors(self) -> dict[str, torch.Tensor | KeyedJaggedTensor]:
        return {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor | KeyedJaggedTensor)
        }

    def _with(self, values: dict[str, Any]) -> "Batch":
        return Batch(**(vars(self) | values))
