"""Ordered histories side by side, as the history encoder takes them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Slots:
    """Ordered histories of S stretches in W slots each, and which of their states B rows take.

    Attributes:
        items: Place of each slot's item among given vectors, (S, W) int64; 0 where a shorter stretch is
            padded, at its end.
        rows: State of each row, (B,) int64: stretch * (W + 1) + number of slots before it.
        factors: Multiples of the values of the slots' vectors, (S, W, D) float32: 0 for those that are
            dropped; None: 1 for all.
        times: Seconds of each slot, (S, W) int64; None where there are none.
    """

    items: torch.Tensor
    rows: torch.Tensor
    factors: torch.Tensor | None = None
    times: torch.Tensor | None = None

    @property
    def stretches(self) -> torch.Tensor:
        """Stretch of each row, (B,) int64."""
        return self.rows // (self.items.shape[1] + 1)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Slots":
        """Return the slots on a device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Slots":
        """Return the slots in pinned memory."""
        return self._with(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until work queued on another stream is done."""
        self._with(lambda tensor: tensor.record_stream(stream))  # type: ignore[arg-type]

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Slots":
        def changed(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else change(tensor)

        return Slots(change(self.items), change(self.rows), changed(self.factors), changed(self.times))


def make_slots(
    lengths: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None = None,
    *,
    stretches: np.ndarray | None = None,
    before: np.ndarray | None = None,
    factors: np.ndarray | None = None,
) -> Slots:
    """Return the slots of stretches whose values stand one stretch's after another's.

    Args:
        lengths: Slots of each stretch, (S,).
        items: Place of each slot's item among the vectors that are looked up.
        times: Seconds of each slot.
        stretches: Stretch of each row, (B,); None: a row is a stretch with all of its slots before it.
        before: Slots before each row, (B,).
        factors: Multiples of the values of each slot's vector, (slots, D).
    """
    if stretches is None or before is None:
        stretches, before = np.arange(len(lengths)), lengths
    width = int(lengths.max(initial=0))
    filled = np.arange(width) < lengths[:, None]

    def padded(values: np.ndarray, dtype: type) -> torch.Tensor:
        found = np.zeros((*filled.shape, *values.shape[1:]), dtype)
        found[filled] = values
        return torch.from_numpy(found)

    return Slots(
        items=padded(items, np.int64),
        rows=torch.from_numpy(stretches * (width + 1) + before),
        factors=None if factors is None else padded(factors, np.float32),
        times=None if times is None else padded(times, np.int64),
    )
