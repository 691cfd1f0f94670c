"""One tower: embedding tables and optional dense layers, which make vectors of rows.

The embedding of a bag of n rows is their sum divided by the square root of n, so that independent rows give
vectors of about the same length however many they are; a bag of one is its row, and an empty bag is zero.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.types import DataType

from trainer.model.dense_input import DenseInputs
from trainer.model.row_partitions import MARK, partition_names, split_by_rows, within_partition

BIAS_DIM = 4
"""Width of the item bias table, the narrowest that FBGEMM supports; the bias is the mean of a row."""
DATA_TYPES = {"float32": DataType.FP32, "float16": DataType.FP16}
"""Types of table values that FBGEMM trains, as TorchRec calls them."""


class TowerOutput(NamedTuple):
    """What a tower makes of B rows.

    Attributes:
        vectors: (B, dim).
        bias: (B, 1), or None without a bias table.
        context: Vectors of the rows as items of a history, (B, dim), or None without a table of them.
    """

    vectors: torch.Tensor
    bias: torch.Tensor | None
    context: torch.Tensor | None


class Tower(nn.Module):
    """Embeddings of the features, summed or concatenated, plus dense layers on top if widths are given.

    The last dense layer starts at zero, so that a tower with dense layers starts as the one without them.
    """

    def __init__(
        self,
        tables: dict[str, int],
        dim: int,
        bias_table: str | None,
        hidden: list[int],
        combine: str = "sum",
        partitions: Mapping[str, int] | None = None,
        table_dtype: str = "float32",
        dense: Mapping[str, int] | None = None,
        dense_std: float = 0.02,
        expects_bias: bool = False,
        context_table: str | None = None,
        history: bool = False,
    ) -> None:
        """Make tables on the meta device; `trainer.sharding.shard` gives them memory and values.

        Args:
            tables: Rows of each feature's table, by the feature's name; there may be none with a history.
            dim: Width of the output.
            bias_table: Feature whose table holds biases instead, or None.
            hidden: Widths of the dense layers before the output.
            combine: `sum` (every table is `dim` wide) or `concat` (the features share `dim` evenly).
            partitions: Number of row partitions of a feature's table; see `trainer.model.row_partitions`.
            table_dtype: Type of table values, see `DATA_TYPES`.
            dense: Numbers in each feature that is a number or a vector, by its name; see `DenseInputs`.
            dense_std: Standard deviation of initial weights of their layers.
            expects_bias: Whether a bias that is expected by attributes is given and added, times a slope.
            context_table: Feature whose table holds the vectors that a row has as an item of a history, or
                None.
            history: Whether the state of an ordered history is one more feature.
        """
        super().__init__()
        self.features = [name for name in tables if name not in (bias_table, context_table)]
        count = len(self.features) + len(dense or {}) + history
        self.dim, self.bias_table, self.context_table = int(dim), bias_table, context_table
        self.concatenates = combine == "concat"
        width = int(dim) // count if self.concatenates else int(dim)
        self.widths = {name: BIAS_DIM if name == bias_table else width for name in tables}
        names = {
            name: partition_names(name, tables[name], count) for name, count in (partitions or {}).items()
        }
        self.partitions = {name: (len(sizes), next(iter(sizes.values()))) for name, sizes in names.items()}
        self.embeddings = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=partition,
                    num_embeddings=int(size),
                    embedding_dim=self.widths[name],
                    feature_names=[partition],
                    init_fn=_leave_as_is,
                    data_type=DATA_TYPES[table_dtype],
                )
                for name, rows in tables.items()
                for partition, size in names.get(name, {name: rows}).items()
            ],
        )
        self.dense = _dense_layers(count * width, hidden, dim) if hidden else None
        self.dense_inputs = DenseInputs(dense, width, dense_std) if dense else None
        self.bias_slope = nn.Parameter(torch.ones(1)) if expects_bias else None

    def forward(
        self,
        inputs: KeyedJaggedTensor,
        partition: int | None = None,
        values: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> TowerOutput:
        """Return what the tower makes of B rows.

        Args:
            inputs: Features, stride B.
            partition: Partition of all partitioned tables that has every id; None: any.
            values: Numbers and vectors of the rows, as `DenseInputs` takes them, then the expected bias, if
                it is part of the model; None without any.
            states: States of ordered histories, (B, dim), one more feature; None without any.
            rows: With states, which of the features' rows each state belongs to, (B,).
        """
        pooled = self._pooled(inputs, partition)
        keys = inputs.keys()
        lengths = inputs.lengths().view(len(keys), inputs.stride())
        embedded = [_by_root(pooled[name], lengths[keys.index(name)]) for name in self.features]
        expected = None
        if self.bias_slope is not None:
            assert values is not None, "a tower that expects biases needs their values"
            values, expected = values[:, :-1], values[:, -1:]
        if self.dense_inputs is not None:
            assert values is not None, "a tower with numbers or vectors needs their values"
            embedded += self.dense_inputs(values)
        if states is not None and rows is not None:
            embedded = [*(each.index_select(0, rows) for each in embedded), states]
        if len(embedded) == 1:
            vectors = embedded[0]
        else:
            vectors = torch.cat(embedded, dim=1) if self.concatenates else torch.stack(embedded).sum(0)
        if self.dense is not None:
            vectors = vectors + self.dense(torch.cat(embedded, dim=1))
        bias = pooled[self.bias_table].mean(1, keepdim=True) if self.bias_table else None
        if bias is not None and self.bias_slope is not None and expected is not None:
            bias = bias + self.bias_slope * expected
        return TowerOutput(vectors, bias, pooled[self.context_table] if self.context_table else None)

    def lookups(self, inputs: KeyedJaggedTensor, partition: int | None = None) -> KeyedJaggedTensor:
        """Return the features as the tables take them: those of partitioned tables by partition."""
        if partition is not None:
            return within_partition(inputs, self.partitions, partition)
        return split_by_rows(inputs, self.partitions) if self.partitions else inputs

    def _pooled(self, inputs: KeyedJaggedTensor, partition: int | None) -> dict[str, torch.Tensor]:
        """Return the sum of each feature's rows, (B, width of its table)."""
        if not self.widths:
            return {}
        together = self.embeddings(self.lookups(inputs, partition))
        names = together.keys()
        # Splitting a single feature's vectors off would cost a copy of their gradient.
        pooled = {names[0]: together.values()} if len(names) == 1 else together.to_dict()
        for name, (count, _) in self.partitions.items():
            numbers = range(count) if partition is None else (partition,)
            vectors = [pooled[f"{name}{MARK}{number}"] for number in numbers]
            pooled[name] = sum(vectors[1:], vectors[0])  # stacking them first would cost a copy
        return pooled


def _by_root(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    # Ids are bags of one, and dividing them costs a pass over wide rows. A GPU would have to be waited for.
    if lengths.device.type == "cpu" and lengths.numpy().max(initial=0) <= 1:
        return sums
    return sums / lengths.clamp(min=1).sqrt().unsqueeze(1)


def _leave_as_is(weights: torch.Tensor) -> None:
    """Leave initial values to `fill_tables` after sharding, so that they do not depend on the plan."""


def _dense_layers(inputs: int, hidden: list[int], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    last = nn.Linear(inputs, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
