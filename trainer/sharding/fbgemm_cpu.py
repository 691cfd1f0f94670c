"""Looked-up rows of FBGEMM's tables in a CPU's memory, their gradients and updates, by its kernels alone.

The modules around the kernels check, count and wrap for devices, caches and bags that are not here, which
takes several times as long as what a small step needs.
"""

from typing import Any

import torch

from trainer.sharding.private_api import (
    UPDATE_ROWS,
    PoolingMode,
    SparseType,
    backward_layout,
    forward_layout,
    gradient_of_dense_tables,
    host_values,
    is_fused,
    look_up_rows,
    update_arguments,
    update_layout,
)


class Rows:
    """Rows of T tables, one named by each id.

    Ids are (T, B) int64, each within its table; vectors and gradients are (B, sum of widths) float32.

    Attributes:
        are_updated: whether `update` does what the tables' own backward pass would.
    """

    def __init__(self, tables: Any) -> None:
        """Take the rows of FBGEMM's tables, whose values keep their place in memory.

        Args:
            tables: FBGEMM's module, of fused tables or of dense ones.
        """
        self._tables, self._offsets = tables, torch.zeros(1, dtype=torch.int64)
        self._weights = host_values(tables)
        plain = is_fused(tables) and _is_plain(tables)
        self._update = UPDATE_ROWS.get(tables.optimizer) if plain else None
        self.are_updated = self._update is not None

    def look_up(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of all tables side by side.

        Raises:
            RuntimeError: An id is not in its table.
        """
        layout, dtype = forward_layout(self._tables), SparseType.FP32.as_int()
        return look_up_rows(self._weights, *layout, *self._bags(ids), dtype)

    def gradient_of_tables(self, ids: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient of all tables' values, flat and one after another, from that of the looked-up rows."""
        layout, bags = backward_layout(self._tables), self._bags(ids)
        return gradient_of_dense_tables(gradient.contiguous(), self._weights, *layout, *bags, 0.0)

    def update(self, ids: torch.Tensor, gradient: torch.Tensor) -> None:
        """Have the tables' optimizer update the looked-up rows, and its states, in place.

        Gradients of one row are added before the optimizer sees them.
        """
        assert self._update is not None, "call this only if `are_updated`"
        layout, bags, stochastic_rounding = update_layout(self._tables), self._bags(ids), False
        arguments = *layout, *bags, stochastic_rounding, *update_arguments(self._tables)
        self._update(gradient.contiguous(), self._weights, *arguments)

    def _bags(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int, None]:
        """Ids, offsets, pooling and weights of bags of one."""
        if len(self._offsets) != ids.numel() + 1:
            self._offsets = torch.arange(ids.numel() + 1)
        return ids.reshape(-1), self._offsets, PoolingMode.SUM.value, None


def _is_plain(tables: Any) -> bool:
    """Tell whether tables are float32 and their optimizer does nothing besides its update."""
    return tables.optimizer_args.weight_decay == 0 and host_values(tables).dtype == torch.float32
