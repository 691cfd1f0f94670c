"""Query vectors of people who are known by a history or by attributes alone."""

import threading
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from json import loads
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.model.fold_in import fold_in
from trainer.recommender.manifest import CATEGORIES, HISTORY_COLUMNS, PROGRAM
from trainer.recommender.vectors import VectorTable
from trainer.storage.attributes import Ragged

PADDING = -1
"""Code or item row behind the end of a bag or of a history, as `trainer.exporting.program` takes it."""
NAMED = 5
"""Most values that a message names."""


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

    def uses_attributes(self, histories: Sequence[np.ndarray]) -> bool:
        """Return whether attributes count beside these histories: not where vectors are fitted to them."""
        return bool(self._facts["takes_history"]) or not any(map(len, histories))

    def vectors(self, histories: Sequence[np.ndarray], attributes: Mapping[str, Any] | None) -> np.ndarray:
        """Return query vectors, (B, D) float32.

        Args:
            histories: (n,) distinct item rows of each of B people, oldest first; they may be empty.
            attributes: What all of them have in common, by name; None: nothing is known.

        Raises:
            UserError: An attribute or its value is unknown, or torch is needed and not installed.
        """
        if self._facts["takes_history"] or (attributes and not any(map(len, histories))):
            return self._by_program(histories, attributes or {})
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

    def parts(self, rows: np.ndarray, dim: int) -> np.ndarray:
        """Return what each item of a history adds to the query vector of someone new, (n, D) float32.

        Only closed-form dimensions are such sums; the others are zero.
        """
        found = np.zeros((len(rows), dim), np.float32)
        if self._columns is not None and len(rows):
            found[:, dim - self._columns.shape[1] :] = self._columns[rows] / np.sqrt(len(rows))
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
            if entry["kind"] == "history":
                given.append(history)
            elif entry["kind"] == "times":  # one item after another, as usual in the data
                given.append(
                    np.round(np.arange(history.shape[1]) * entry["gap"])
                    .astype(np.int64)[None]
                    .repeat(count, 0)
                )
            elif entry["kind"] == "numbers":
                given.append(np.repeat(_numbers(entry, value)[None], count, 0))
            else:
                codes = entry["unknown"] if value is None else self._codes(entry["name"], value)
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
        with self._lock:
            if self._program is None:
                self._program = torch.export.load(self._folder / PROGRAM).module()
        with torch.no_grad():
            return self._program(*(torch.from_numpy(np.ascontiguousarray(each)) for each in given)).numpy()

    def _codes(self, name: str, value: Any) -> list[int]:
        """Return the codes of one category or of several."""
        codes = self._codes_by_text[name]
        found = []
        for each in value if isinstance(value, (list, tuple, set, np.ndarray)) else [value]:
            text = str(each)
            if text not in codes:
                near = get_close_matches(text, codes, n=NAMED) or list(codes)[:NAMED]
                raise UserError(
                    f"attributes: {name}={text}: nobody in the training data has it. Such as: "
                    f"{', '.join(near)}"
                )
            found.append(codes[text])
        return found

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


def _numbers(entry: Mapping[str, Any], value: Any) -> np.ndarray:
    """Return the numbers of one attribute, (width,) float32; NaN where it is unknown."""
    if value is None:
        return np.full(entry["width"], np.nan, np.float32)
    try:
        found = np.asarray(value, np.float32).reshape(-1)
    except (TypeError, ValueError):
        found = np.empty(0, np.float32)
    if len(found) != entry["width"] or not np.isfinite(found).all():
        wanted = "a number" if entry["width"] == 1 else f"{entry['width']} numbers"
        raise UserError(f"attributes: {entry['name']}={value}: expected {wanted}")
    return found
