"""The two towers: embedding tables, optional dense layers, and the score as one dot product.

The embedding of a bag of n rows is their sum divided by the square root of n, so that independent rows give
vectors of one length however many they are; a bag of one is its row, and an empty bag is zero.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.types import DataType

from trainer.model.row_partitions import MARK, part_names, split_by_rows, within_part

BIAS_DIM = 4
"""Width of the item bias table, the narrowest that FBGEMM takes; the bias is the mean of a row."""
DATA_TYPES = {"float32": DataType.FP32, "float16": DataType.FP16}
"""Types of table values in TorchRec's terms, those that FBGEMM trains."""


class Tower(nn.Module):
    """Embeddings of the features, summed or side by side, plus dense layers on top where widths are given.

    The last dense layer starts at zero, so a tower with dense layers starts as the same tower without them.
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
    ) -> None:
        """Tables on the meta device; `trainer.sharding.shard` gives them memory and values.

        Args:
            tables: rows of each feature's table, by the feature's name.
            dim: width of the output.
            bias_table: name of the feature whose table holds biases instead, or None.
            hidden: widths of the dense layers before the output.
            combine: `sum` (every table is `dim` wide) or `concat` (the features share `dim` evenly).
            partitions: how many tables a feature's is cut into, by name; see `trainer.model.row_partitions`.
            table_dtype: of the tables' values, see `DATA_TYPES`.
        """
        super().__init__()
        self.features = [name for name in tables if name != bias_table]
        self.bias_table = bias_table
        self.side_by_side = combine == "concat"
        width = int(dim) // len(self.features) if self.side_by_side else int(dim)
        self.widths = {name: BIAS_DIM if name == bias_table else width for name in tables}
        cut = {name: part_names(name, tables[name], parts) for name, parts in (partitions or {}).items()}
        self.cut = {name: (len(parts), next(iter(parts.values()))) for name, parts in cut.items()}
        self.embeddings = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=part,
                    num_embeddings=int(size),
                    embedding_dim=self.widths[name],
                    feature_names=[part],
                    init_fn=_leave,
                    data_type=DATA_TYPES[table_dtype],
                )
                for name, rows in tables.items()
                for part, size in cut.get(name, {name: rows}).items()
            ],
        )
        self.dense = _dense_layers(len(self.features) * width, hidden, dim) if hidden else None

    def forward(
        self, inputs: KeyedJaggedTensor, part: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Vectors (B, dim) and, where there is a bias table, biases (B, 1).

        Args: part: partition of all cut tables in which every id is; None: they may be in any.
        """
        pooled = self._pooled(inputs, part)
        keys = inputs.keys()
        lengths = inputs.lengths().view(len(keys), inputs.stride())
        parts = [_by_root(pooled[name], lengths[keys.index(name)]) for name in self.features]
        if len(parts) == 1:
            vectors = parts[0]
        else:
            vectors = torch.cat(parts, dim=1) if self.side_by_side else torch.stack(parts).sum(0)
        if self.dense is not None:
            vectors = vectors + self.dense(torch.cat(parts, dim=1))
        bias = pooled[self.bias_table].mean(1, keepdim=True) if self.bias_table else None
        return vectors, bias

    def lookups(self, inputs: KeyedJaggedTensor, part: int | None = None) -> KeyedJaggedTensor:
        """What the tables are asked for: the features, those of cut tables by partition."""
        if part is not None:
            return within_part(inputs, self.cut, part)
        return split_by_rows(inputs, self.cut) if self.cut else inputs

    def _pooled(self, inputs: KeyedJaggedTensor, part: int | None) -> dict[str, torch.Tensor]:
        """Sum of each feature's rows, (B, width of its table)."""
        together = self.embeddings(self.lookups(inputs, part))
        names = together.keys()
        # To part vectors that stand alone would cost a copy of their gradient.
        pooled = {names[0]: together.values()} if len(names) == 1 else together.to_dict()
        for name, (parts, _) in self.cut.items():
            numbers = range(parts) if part is None else (part,)
            vectors = [pooled[f"{name}{MARK}{number}"] for number in numbers]
            pooled[name] = sum(vectors[1:], vectors[0])  # to stack them first would cost a copy
        return pooled


class TwoTowers(nn.Module):
    """Query and candidate tower whose outputs' dot product is the score, bias and temperature included.

    With unit vectors the query is z = normalize(U) and the candidate normalize(V) / temperature. With a bias
    the query gains a column of ones and the candidate a column of biases, so that one dot product is still
    all that training, evaluation and an index need.
    """

    def __init__(
        self,
        user_tables: dict[str, int],
        item_tables: dict[str, int],
        dim: int,
        similarity: str = "cosine",
        temperature: float = 0.2,
        learn_temperature: bool = False,
        item_bias: str | None = None,
        hidden: list[int] | None = None,
        combine: str = "sum",
        partitions: Mapping[str, int] | None = None,
        table_dtype: str = "float32",
    ) -> None:
        """Towers without values in their tables.

        Args:
            user_tables, item_tables: rows of each feature's table.
            dim: width of the towers, a multiple of 4.
            similarity: `cosine` or `dot`.
            temperature: divisor of cosine scores, > 0.
            learn_temperature: make the temperature a parameter.
            item_bias: name of the item feature that holds biases, or None.
            hidden: widths of dense layers.
            combine: `sum` of a tower's features, or `concat`: each takes an equal part of `dim`, which is a
                multiple of 4.
            partitions: how many tables a feature's table is cut into, by name of either side.
            table_dtype: of the values of all tables, `float32` or `float16`; outputs are float32.
        """
        super().__init__()
        cut = partitions or {}
        users = {name: parts for name, parts in cut.items() if name in user_tables}
        items = {name: parts for name, parts in cut.items() if name in item_tables}
        self.query = Tower(user_tables, dim, None, hidden or [], combine, users, table_dtype)
        self.candidate = Tower(item_tables, dim, item_bias, hidden or [], combine, items, table_dtype)
        self.unit = similarity == "cosine"
        self.output_dim = dim + (item_bias is not None)
        log_temperature = torch.tensor(math.log(temperature if self.unit else 1.0))
        if self.unit and learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature)

    def queries(self, inputs: KeyedJaggedTensor, part: int | None = None) -> torch.Tensor:
        """Query vectors, (B, output_dim); `part` as `Tower` has it."""
        vectors, _ = self.query(inputs, part)
        vectors = normalize(vectors) if self.unit else vectors
        if self.output_dim == vectors.shape[1]:
            return vectors
        return torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)

    def candidates(self, inputs: KeyedJaggedTensor, part: int | None = None) -> torch.Tensor:
        """Candidate vectors, (C, output_dim); `part` as `Tower` has it."""
        vectors, bias = self.candidate(inputs, part)
        if self.unit:
            vectors = normalize(vectors, torch.exp(-self.log_temperature))
        return vectors if bias is None else torch.cat([vectors, bias], dim=1)

    def forward(
        self,
        queries: KeyedJaggedTensor,
        candidates: KeyedJaggedTensor,
        query_part: int | None = None,
        candidate_part: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Query vectors (B, output_dim) and candidate vectors (C, output_dim) of this rank's share.

        Args: query_part, candidate_part: as `Tower` has it.
        """
        return self.queries(queries, query_part), self.candidates(candidates, candidate_part)


def _by_root(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    # Ids are bags of one, and dividing them costs a pass over wide rows. A GPU would have to be waited for.
    if lengths.device.type == "cpu" and lengths.numpy().max(initial=0) <= 1:
        return sums
    return sums / lengths.clamp(min=1).sqrt().unsqueeze(1)


def normalize(vectors: torch.Tensor, length: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Rows scaled to one length; a zero row, that of an empty history, stays zero and gets no gradient.

    Args:
        vectors: (B, D).
        length: a number, or a tensor of one.
    """
    return _Normalize.apply(vectors, torch.as_tensor(length, dtype=vectors.dtype))


class _Normalize(torch.autograd.Function):
    """The same; its gradient by hand takes four passes over wide rows, and torch's seven."""

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
        # What is across the vector turns it, what is along it changes nothing but a length that is trained.
        across = torch.addcmul(gradients[0] * factors, vectors, along * inverse * factors, value=-1)
        return across, along.sum() if ctx.needs_input_grad[1] else None


def _leave(weights: torch.Tensor) -> None:
    """Initial values are given after sharding, so that they do not depend on the plan."""


def _dense_layers(inputs: int, hidden: list[int], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    last = nn.Linear(inputs, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
