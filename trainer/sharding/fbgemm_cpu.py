"""Looked-up rows of FBGEMM's tables in a CPU's memory, their gradients and updates, by its kernels alone.

The modules around the kernels check, count and wrap for devices, caches and bags that are not here, which
takes several times as long as what a small step needs.
"""

from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode

_KERNELS: Any = torch.ops.fbgemm
_UPDATES = {
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: _KERNELS.split_embedding_backward_codegen_rowwise_adagrad_cpu,
    EmbOptimType.EXACT_ADAGRAD: _KERNELS.split_embedding_backward_codegen_adagrad_cpu,
    EmbOptimType.EXACT_SGD: _KERNELS.split_embedding_backward_codegen_sgd_cpu,
}


class Rows:
    """Rows of T tables, one named by each id.

    Ids are (T, B) int64, each within its table; vectors and gradients are (B, sum of widths) float32.

    Attributes:
        are_updated: whether `update` does what the tables' own backward pass would.
    """

    def __init__(self, tables: Any) -> None:
        """Args: tables: FBGEMM's module, of fused tables or of dense ones; their values keep their place."""
        fused = hasattr(tables, "weights_host")
        self._tables, self._offsets = tables, torch.zeros(1, dtype=torch.int64)
        self._weights = (tables.weights_host if fused else tables.weights).detach()
        self._sizes = tables.hash_size_cumsum, tables.total_hash_size_bits
        self._update = _UPDATES.get(tables.optimizer) if fused and _is_plain(tables) else None
        self.are_updated = self._update is not None

    def look_up(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of all tables side by side.

        Raises: RuntimeError for an id that is not in its table.
        """
        tables = self._tables
        places = tables.weights_offsets, tables.D_offsets, tables.total_D, tables.hash_size_cumsum
        kind = SparseType.FP32.as_int()
        return _KERNELS.split_embedding_codegen_forward_cpu(self._weights, *places, *self._bags(ids), kind)

    def gradient_of_tables(self, ids: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient of all tables' values, flat and one after another, from that of the looked-up rows."""
        tables = self._tables
        places = tables.weights_offsets, tables.D_offsets, tables.max_D, *self._sizes
        return _KERNELS.split_embedding_backward_codegen_dense_cpu(
            gradient.contiguous(), self._weights, *places, *self._bags(ids), 0.0
        )

    def update(self, ids: torch.Tensor, gradient: torch.Tensor) -> None:
        """Have the tables' optimizer update the looked-up rows, and its states, in place.

        Gradients of one row are added before the optimizer sees them.
        """
        assert self._update is not None, "of tables that can be updated so"
        tables = self._tables
        places = tables.weights_placements, tables.weights_offsets, tables.D_offsets, tables.max_D
        state: tuple[Any, ...] = (tables.learning_rate_tensor,)
        if tables.optimizer != EmbOptimType.EXACT_SGD:
            sums = tables.momentum1_host.detach(), tables.momentum1_placements, tables.momentum1_offsets
            state = (*sums, *state, tables.optimizer_args.eps)
        bags, rounded = self._bags(ids), False
        self._update(gradient.contiguous(), self._weights, *places, *self._sizes, *bags, rounded, *state)

    def _bags(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int, None]:
        """Ids, offsets, pooling and weights of bags of one."""
        if len(self._offsets) != ids.numel() + 1:
            self._offsets = torch.arange(ids.numel() + 1)
        return ids.reshape(-1), self._offsets, PoolingMode.SUM.value, None


def _is_plain(tables: Any) -> bool:
    """Whether the optimizer does nothing beside its update."""
    return tables.optimizer_args.weight_decay == 0 and tables.weights_host.dtype == torch.float32
