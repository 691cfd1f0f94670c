"""The two towers, and the score as one dot product of what they make."""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from trainer.histories.slots import Slots
from trainer.model.history_encoder import HistoryEncoder
from trainer.model.normalize import normalize
from trainer.model.tower import Tower

Gather: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Joins the rows of all ranks."""


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
