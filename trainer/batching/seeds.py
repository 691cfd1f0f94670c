"""Random streams of batches: each purpose has its own, so that none repeats another's numbers."""

import numpy as np

ROW_ORDER, CANDIDATES, HISTORY, ITEM_IDS = 1, 2, 3, 4
"""Purposes."""


def generator(purpose: int, seed: int, number: int, skipped: int = 0) -> np.random.Generator:
    """Return the generator of one step or epoch.

    Args:
        purpose: One of the above.
        seed: Seed of the training.
        number: Number of the step or epoch.
        skipped: Draws of the stream to pass over.
    """
    return np.random.Generator(np.random.PCG64([purpose, seed, number]).advance(skipped))
