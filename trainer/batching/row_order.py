"""Order in which the rows of a training split are visited, drawn anew for each epoch."""

import numpy as np

from trainer.batching import seeds


class RowOrder:
    """Cut every epoch's permutation of the rows into steps.

    Attributes:
        row_count: Rows of an epoch.
        steps_per_epoch: Steps that visit every row once; the last one may be smaller.
    """

    def __init__(self, row_count: int, size: int, seed: int) -> None:
        """Draw nothing yet.

        Args:
            row_count: Rows of an epoch.
            size: Rows of a step over all ranks.
            seed: Seed of the training.
        """
        self.row_count, self._size, self._seed = row_count, size, seed
        self.steps_per_epoch = -(-row_count // size)
        self._drawn: tuple[int, np.ndarray] | None = None

    def of_step(self, step: int) -> np.ndarray:
        """Return the row numbers of a step over all ranks."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._of_epoch(epoch)[place * self._size : (place + 1) * self._size]

    def _of_epoch(self, epoch: int) -> np.ndarray:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = None  # an order is as long as the data: one is freed before the next is drawn
            rows = np.arange(self.row_count, dtype=np.int32 if self.row_count < 2**31 else np.int64)
            seeds.generator(seeds.ROW_ORDER, self._seed, epoch).shuffle(rows)
            self._drawn = epoch, rows
        return self._drawn[1]
