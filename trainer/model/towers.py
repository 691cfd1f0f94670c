"""The two towers: embedding tables, optional dense layers, and the score as one dot product.

The embedding of a bag of n rows is their sum divided by the square root of n, so that independent rows give
vectors of about the same length however many they are; a bag of one is its row, and an empty bag is zero.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.types import DataType

from trainer.histories.slots import Slots
from trainer.model.dense_input import DenseInputs
from trainer.model.history_encoder import HistoryEncoder
from trainer.model.row_partitions import MARK, partition_names, split_by_rows, within_partition

BIAS_DIM = 4
"""Width of the item bias table, the narrowest that FBGEMM supports; the bias is the mean of a row."""
Gather: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Joins the rows of all ranks."""
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


class TwoTowers(nn.Module):
    """Query and candidate tower; the dot product of their outputs is the score, with bias and temperature.

    With cosine similarity the query is normalize(U) and the candidate normalize(V) / temperature. With a bias
    the query gains a column of ones and the candidate a column of biases, so that one dot product is all that
    training, evaluation and an index need.
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
        user_dense: Mapping[str, int] | None = None,
        item_dense: Mapping[str, int] | None = None,
        dense_std: float = 0.02,
        expects_bias: bool = False,
        encoder: HistoryEncoder | None = None,
        context_table: str | None = None,
        adds_context: bool = False,
    ) -> None:
        """Make towers without values in their tables.

        Args:
            user_tables: Rows of each user feature's table; there may be none with an encoder.
            item_tables: Rows of each item feature's table.
            dim: Width of the towers, a multiple of 4.
            similarity: `cosine` or `dot`.
            temperature: Divisor of cosine scores, above 0.
            learn_temperature: Whether the temperature is a parameter.
            item_bias: Item feature whose table holds biases, or None.
            hidden: Widths of dense layers.
            combine: `sum` of a tower's features, or `concat`: each has an equal share of `dim`, which must be
                a multiple of 4.
            partitions: Number of row partitions of a feature's table, for features of either tower.
            table_dtype: Type of the values of all tables, `float32` or `float16`; outputs are float32.
            user_dense: Numbers in each user feature that is a number or a vector.
            item_dense: The same for items.
            dense_std: Standard deviation of initial weights of their layers.
            expects_bias: Whether items have a bias that is expected by their attributes, beside the table's.
            encoder: Encoder of ordered histories, a feature of the query tower; None: there are none.
            context_table: Item feature whose table holds the vectors that histories are made of; None: they
                are the candidate tower's own, before it scales them to one length.
            adds_context: Whether the table's vectors are added to the tower's own.
        """
        super().__init__()
        counts = partitions or {}
        users = {name: count for name, count in counts.items() if name in user_tables}
        items = {name: count for name, count in counts.items() if name in item_tables}
        query, candidate = (user_dense, dense_std), (item_dense, dense_std)
        self.query = Tower(
            user_tables,
            dim,
            None,
            hidden or [],
            combine,
            users,
            table_dtype,
            *query,
            history=encoder is not None,
        )
        self.candidate = Tower(
            item_tables,
            dim,
            item_bias,
            hidden or [],
            combine,
            items,
            table_dtype,
            *candidate,
            expects_bias=expects_bias,
            context_table=context_table,
        )
        self.encoder, self.adds_context = encoder, adds_context
        self.unit = similarity == "cosine"
        self.output_dim = dim + (item_bias is not None)
        log_temperature = torch.tensor(math.log(temperature if self.unit else 1.0))
        if self.unit and learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature)

    @property
    def exchanged_dim(self) -> int:
        """Width of what ranks exchange of each candidate, see `unscaled_candidates`."""
        return self.output_dim + (0 if self.candidate.context_table is None else self.candidate.dim)

    def queries(
        self,
        inputs: KeyedJaggedTensor,
        partition: int | None = None,
        values: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return query vectors, (B, output_dim); arguments as in `Tower.forward`."""
        vectors = self.query(inputs, partition, values, states, rows).vectors
        vectors = normalize(vectors) if self.unit else vectors
        if self.output_dim == vectors.shape[1]:
            return vectors
        return torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)

    def unscaled_candidates(
        self, inputs: KeyedJaggedTensor, partition: int | None = None, values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return candidates before their vectors are scaled, with their vectors as items of a history.

        Args:
            inputs: Features, stride C.
            partition: As in `Tower.forward`.
            values: As in `Tower.forward`.

        Returns:
            Side by side: vectors, (C, dim); biases, (C, 1), if there are any; and vectors as items of a
            history, (C, dim), if these have a table.
        """
        return torch.cat([each for each in self.candidate(inputs, partition, values) if each is not None], 1)

    def scaled(self, unscaled: torch.Tensor) -> torch.Tensor:
        """Return what `candidates` returns from what `unscaled_candidates` returns."""
        vectors, others = unscaled[:, : self.candidate.dim], unscaled[:, self.candidate.dim : self.output_dim]
        if self.unit:
            vectors = normalize(vectors, torch.exp(-self.log_temperature))
        return torch.cat([vectors, others], dim=1) if others.shape[1] else vectors

    def context(self, unscaled: torch.Tensor) -> torch.Tensor:
        """Return the vectors of items of histories, (C, dim), from what `unscaled_candidates` returns."""
        own = unscaled[:, : self.candidate.dim]
        if self.candidate.context_table is None:
            return own
        return unscaled[:, self.output_dim :] + own if self.adds_context else unscaled[:, self.output_dim :]

    def candidates(
        self, inputs: KeyedJaggedTensor, partition: int | None = None, values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return candidate vectors, (C, output_dim); arguments as in `Tower.forward`."""
        vectors, bias, _ = self.candidate(inputs, partition, values)
        if self.unit:
            vectors = normalize(vectors, torch.exp(-self.log_temperature))
        return vectors if bias is None else torch.cat([vectors, bias], dim=1)

    def forward(
        self,
        queries: KeyedJaggedTensor,
        candidates: KeyedJaggedTensor,
        query_partition: int | None = None,
        candidate_partition: int | None = None,
        query_values: torch.Tensor | None = None,
        candidate_values: torch.Tensor | None = None,
        slots: Slots | None = None,
        gather: Gather | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return query vectors, (B, output_dim), and candidate vectors, (C, output_dim), of a batch.

        Args:
            queries: Query features, stride B or, with slots, that of the stretches.
            candidates: Candidate features, stride C or, with `gather`, that of this rank's share of C.
            query_partition: Partition that has all ids of the queries; None: any.
            candidate_partition: Partition that has all ids of the candidates; None: any.
            query_values: Numbers and vectors of the queries; None without any.
            candidate_values: Those of the candidates.
            slots: Ordered histories of the rows, whose items are among the C candidates; None without any.
            gather: With slots, joins the candidates of all ranks; None: this rank has all of them.
        """
        if slots is None:
            return (
                self.queries(queries, query_partition, query_values),
                self.candidates(candidates, candidate_partition, candidate_values),
            )
        unscaled = self.unscaled_candidates(candidates, candidate_partition, candidate_values)
        unscaled = unscaled if gather is None else gather(unscaled)
        assert self.encoder is not None, "towers without an encoder have no ordered histories"
        states = self.encoder(self.context(unscaled), slots)
        query = self.queries(queries, query_partition, query_values, states, slots.stretches)
        return query, self.scaled(unscaled)


def _by_root(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    # Ids are bags of one, and dividing them costs a pass over wide rows. A GPU would have to be waited for.
    if lengths.device.type == "cpu" and lengths.numpy().max(initial=0) <= 1:
        return sums
    return sums / lengths.clamp(min=1).sqrt().unsqueeze(1)


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
