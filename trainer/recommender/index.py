"""The FAISS index of an export: row numbers of items by inner product."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UserError

MISSING = "faiss is not installed, and an index needs it. Run: pip install faiss-cpu"


class Index:
    """An index that finds candidates, which are then ranked by their exact scores; threads may share it."""

    def __init__(self, index: Any, facts: Mapping[str, Any]) -> None:
        """Take over an index of FAISS whose ids are rows of items, and set how it searches.

        Args:
            index: The index.
            facts: `search`, FAISS's search parameters by name, and `refine`: how many candidates are asked
                for, in multiples of what is wanted.
        """
        import faiss

        for name, value in facts["search"].items():
            faiss.ParameterSpace().set_index_parameter(index, name, value)
        self._index, self._refine = index, facts["refine"]

    @classmethod
    def open(cls, path: Path, facts: Mapping[str, Any]) -> "Index":
        """Open an index.

        Raises:
            UserError: FAISS is not installed, or cannot read the file.
        """
        try:
            import faiss
        except ImportError:
            raise UserError(f"{path}: {MISSING}") from None
        try:
            return cls(faiss.read_index(str(path)), facts)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise UserError(
                f"{path}: cannot be read by this FAISS ({reason}). Export the run again"
            ) from None

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """Return rows (n,) int64, ascending, that should hold the `count` best items of a query (D,)."""
        _, rows = self._index.search(np.ascontiguousarray(query[None], np.float32), count * self._refine)
        return np.sort(rows[0][rows[0] >= 0])

    def is_worth_it(self, count: int, items: int) -> bool:
        """Return whether to ask the index for `count` of the items rather than to score them all."""
        return 2 * count * self._refine < items
