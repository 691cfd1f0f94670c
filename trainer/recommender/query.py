"""Query vectors of people who are known by a history or by attributes alone."""

import logging
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from json import loads
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.model.fold_in import fold_in
from trainer.ranking.attribute_values import category_codes, numbers
from trainer.recommender.manifest import CATEGORIES, HISTORY_COLUMNS, PROGRAM
from trainer.recommender.vectors import VectorTable
from trainer.storage.attributes import Ragged

PADDING = -1
"""Code or item row behind the end of a bag or of a history, as `trainer.exporting.program` takes it."""


class QueryMaker:
    """Makes query vectors as the towers of the run do; it may be used by several threads."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], items: VectorTable) -> None:
        """Open what an export has for it.

        Args:
            folder: Of the export.
            facts: `query` of the manifest.
            items: Candidate vectors.
        """
        self._folder, self._facts, self._items = folder, facts, items
        self._program_inputs: list[dict[str, Any]] = (facts["program"] or {}).get("inputs", [])
        self._lock = threading.Lock()
        self._program: Any = None
        columns = folder / HISTORY_COLUMNS
        self._columns = np.load(columns, mmap_mode="r", allow_pickle=False) if columns.is_file() else None

    @property
    def attributes(self) -> list[str]:
        """Names of the attributes that the query tower takes."""
        return [entry["name"] for entry in self._program_inputs if entry["kind"] in ("bag", "numbers")]

    @property
    def ordered(self) -> bool:
        """Whether the query tower takes histories in order."""
        return any("length" in entry for entry in self._program_inputs)

    def check_histories(self) -> None:
        """Refuse histories where the run was trained on values, which a history has none of.

        Raises:
            UserError: It was.
        """
        if not self._facts["histories"]:
            raise UserError(
                f"history: {self._folder} is of a run with --loss.name {self._facts['loss']}, which needs "
                "ratings, and a history has none. Name a user, or export a run trained without values"
            )

    def vectors(self, histories: Sequence[np.ndarray], attributes: Mapping[str, Any] | None) -> np.ndarray:
        """Return query vectors, (B, D) float32.

        Args:
            histories: (n,) distinct item rows of each of B people, oldest first; they may be empty.
            attributes: What all of them have in common, by name; None: nothing is known.

        Raises:
            UserError: An attribute or its value is unknown, or torch is needed and not installed.
        """
        if self._facts["takes_history"]:
            return self._by_program(histories, attributes or {})
        found = self._fitted(histories)
        if not attributes:
            return found
        # Beside a history, to which a vector is fitted, attributes count as much as one item of it.
        learned, lengths = self._facts["learned_dim"], np.array([[len(rows)] for rows in histories])
        by_attributes = self._by_program(histories, attributes)[:, :learned]
        mean = ((lengths * found[:, :learned] + by_attributes) / (lengths + 1)).astype(np.float32)
        if self._facts["unit"]:
            own = mean[:, : learned - self._facts["bias"]]
            own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
        return np.concatenate([mean, found[:, learned:]], 1)

    def _fitted(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Return query vectors that are fitted to histories, with their closed-form dimensions."""
        lengths = np.array([len(rows) for rows in histories], np.int64)
        own = Ragged(
            np.append(0, np.cumsum(lengths)), np.concatenate([*histories, np.empty(0, int)]).astype(int)
        )
        candidates = self._items.rows(slice(None)) if self._items.whole is None else self._items.whole
        candidates = candidates[:, : self._facts["learned_dim"]]
        first = fold_in(own, candidates, self._facts["unit"], self._facts["bias"])
        if self._columns is None:
            return first
        sums = np.zeros((len(lengths), self._columns.shape[1]), np.float32)
        np.add.at(sums, np.repeat(np.arange(len(lengths)), lengths), self._columns[own.values])
        return np.concatenate([first, sums / np.sqrt(np.maximum(lengths, 1))[:, None]], 1).astype(np.float32)

    def parts(self, rows: np.ndarray, counted: np.ndarray, dim: int) -> np.ndarray:
        """Return what each item of a past adds to the query vector, (n, D) float32.

        Only closed-form dimensions are such sums; the others are zero.

        Args:
            rows: (n,) item rows.
            counted: (n,) bool, which of them the query vector was made of.
            dim: Width of a query vector.
        """
        found = np.zeros((len(rows), dim), np.float32)
        if self._columns is not None and counted.any():
            own = self._columns[rows] * counted[:, None] / np.sqrt(counted.sum())
            found[:, dim - self._columns.shape[1] :] = own
        return found

    def _by_program(self, histories: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> np.ndarray:
        unknown = [name for name in attributes if name not in self.attributes]
        if unknown:
            known = ", ".join(self.attributes) or "none"
            raise UserError(
                f"attributes: {unknown[0]} is none that the query tower takes ({known}). Leave it out"
            )
        history = _padded(histories, self._program_inputs[0].get("length"))
        count, given = len(histories), []
        for entry in self._program_inputs:
            value = attributes.get(entry["name"])
            place = f"attributes: {entry['name']}={value}"
            if entry["kind"] == "history":
                given.append(history)
            elif entry["kind"] == "times":  # one item after another, as usual in the data
                given.append(
                    np.round(np.arange(history.shape[1]) * entry["gap"])
                    .astype(np.int64)[None]
                    .repeat(count, 0)
                )
            elif entry["kind"] == "numbers":
                own = np.full(entry["width"], np.nan, np.float32)  # NaN: unknown
                if value is not None:
                    own = numbers(place, value, entry["width"])
                given.append(np.repeat(own[None], count, 0))
            else:
                codes = entry["unknown"]
                if value is not None:
                    codes = category_codes(place, value, self._codes_by_text[entry["name"]])
                given.append(np.repeat(_padded([np.array(codes, np.int64)], None), count, 0))
        return self._run(given)

    def _run(self, given: Sequence[np.ndarray]) -> np.ndarray:
        try:
            import torch
        except ImportError:
            raise UserError(
                f"{self._folder}: its query tower has layers or attributes, and torch is not installed. "
                "Run: pip install torch --index-url https://download.pytorch.org/whl/cpu"
            ) from None
        # A note of torch to its own developers, in every process.
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
        with self._lock:
            if self._program is None:
                self._program = torch.export.load(self._folder / PROGRAM).module()
        with torch.no_grad():
            return self._program(*(torch.from_numpy(np.ascontiguousarray(each)) for each in given)).numpy()

    @cached_property
    def _codes_by_text(self) -> dict[str, dict[str, int]]:
        categories = loads((self._folder / CATEGORIES).read_text(encoding="utf-8"))
        return {name: {str(each): code for code, each in enumerate(own)} for name, own in categories.items()}


def _padded(rows: Sequence[np.ndarray], length: int | None) -> np.ndarray:
    """Return rows side by side, (B, longest or `length`) int64: the last `length` of each, then PADDING."""
    width = length or max(1, max((len(each) for each in rows), default=1))
    found = np.full((len(rows), width), PADDING, np.int64)
    for place, each in enumerate(rows):
        last = each[-width:]
        found[place, : len(last)] = last
    return found
