"""The query tower as a module of torch alone, for people known by attributes or by a history.

It computes what the towers compute on one process, without tables of user ids: someone new has the row of
unknown users. `torch.export` makes a program of it that is opened by torch alone.
"""

from collections.abc import Sequence

import torch
from torch import nn

from trainer.histories.slots import Slots
from trainer.model.towers import TwoTowers

PADDING = -1
"""Code or item row of the places behind the end of a bag or of a history."""


class BagTable(nn.Module):
    """A table of which bags of rows are summed and divided by the square root of their number."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return (B, D) for codes (B, n) int64, PADDING at the end of bags that are shorter."""
        given = codes != PADDING
        rows = self.weight[codes.clamp(min=0)] * given.unsqueeze(2)
        return rows.sum(1) / given.sum(1, keepdim=True).clamp(min=1).sqrt()


class QueryTower(nn.Module):
    """One query tower whose features are given as padded bags, numbers, and an ordered history."""

    def __init__(
        self,
        towers: TwoTowers,
        tables: dict[str, torch.Tensor],
        fixed: dict[str, torch.Tensor],
        context: torch.Tensor | None,
    ) -> None:
        """Take over a tower.

        Args:
            towers: Whole towers with their weights.
            tables: Weights of the tables of features that are given, by name.
            fixed: Vectors of features that are the same for everyone, (D,), by name.
            context: Vectors of items in ordered histories, (items, D); None without an encoder.
        """
        super().__init__()
        query = towers.query
        self.tables = nn.ModuleDict({name: BagTable(weight) for name, weight in tables.items()})
        self.names = list(query.features)
        for name, vector in fixed.items():
            self.register_buffer(f"fixed_{name}", vector)
        self.dense, self.dense_inputs, self.encoder = query.dense, query.dense_inputs, towers.encoder
        self.concatenates, self.unit = query.concatenates, towers.unit
        self.adds_one = towers.output_dim != query.dim
        if context is not None:
            self.register_buffer("context", context)

    def forward(
        self,
        bags: dict[str, torch.Tensor],
        numbers: torch.Tensor | None,
        history: torch.Tensor,
        times: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return query vectors, (B, D)."""
        count = history.shape[0]
        embedded = [
            self.tables[name](bags[name])
            if name in self.tables
            else getattr(self, f"fixed_{name}").expand(count, -1)
            for name in self.names
        ]
        if self.dense_inputs is not None:
            assert numbers is not None, "a tower with numbers needs their values"
            embedded += self.dense_inputs(numbers)
        if self.encoder is not None:
            embedded.append(self._state(history, times))
        together = torch.cat(embedded, dim=1)
        vectors = together if self.concatenates else torch.stack(embedded).sum(0)
        if self.dense is not None:
            vectors = vectors + self.dense(together)
        if self.unit:
            norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            vectors = vectors * torch.where(norms == 0, 0.0, 1 / norms)
        return torch.cat([vectors, vectors.new_ones(count, 1)], dim=1) if self.adds_one else vectors

    def _state(self, history: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        """Return the states after ordered histories (B, W) that begin in the first slot, (B, D)."""
        given = history != PADDING
        starts = torch.arange(history.shape[0]) * (history.shape[1] + 1)
        slots = Slots(items=history.clamp(min=0), rows=starts + given.sum(1), times=times)
        assert self.encoder is not None, "towers without an encoder have no ordered histories"
        return self.encoder(self.context, slots)


class QueryProgram(nn.Module):
    """All query towers side by side; the inputs are those that a manifest lists, in this order."""

    def __init__(
        self, towers: Sequence[QueryTower], inputs: Sequence[tuple[str, str]], history_table: Sequence[str]
    ) -> None:
        """Take over towers.

        Args:
            towers: The learned one first.
            inputs: Kind (`history`, `times`, `bag` or `numbers`) and feature of each input.
            history_table: Features that look the history up.
        """
        super().__init__()
        self.towers = nn.ModuleList(towers)
        self.inputs, self.history_tables = list(inputs), list(history_table)

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Return query vectors, (B, sum of the towers' widths)."""
        named = {kind: value for (kind, _), value in zip(self.inputs, given, strict=True)}
        bags = {name: value for (kind, name), value in zip(self.inputs, given, strict=True) if kind == "bag"}
        numbers = [value for (kind, _), value in zip(self.inputs, given, strict=True) if kind == "numbers"]
        history = named["history"]
        bags |= dict.fromkeys(self.history_tables, history)
        together = torch.cat(numbers, dim=1) if numbers else None
        found = [tower(bags, together, history, named.get("times")) for tower in self.towers]
        return torch.cat(found, dim=1)
