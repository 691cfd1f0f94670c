"""The interactions of one split."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interactions:
    """One split of the data set, in file order; columns are memory-mapped and read-only.

    Attributes:
        users: (n,) int32 row of the user vocabulary.
        items: (n,) int32 row of the item vocabulary.
        values: (n,) float32, or None.
        timestamps: (n,) int64 seconds, or None.
        weights: (n,) float32 above 0, or None: all weigh 1.
    """

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray | None
    timestamps: np.ndarray | None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def followed_by(self, others: "Interactions | None") -> "Interactions":
        """Return these interactions and then others, with the columns that both have."""
        if others is None:
            return self

        def joined(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
            return None if first is None or second is None else np.concatenate([first, second])

        return Interactions(
            np.concatenate([self.users, others.users]),
            np.concatenate([self.items, others.items]),
            joined(self.values, others.values),
            joined(self.timestamps, others.timestamps),
            joined(self.weights, others.weights),
        )
