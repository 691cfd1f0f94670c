"""Dropout of item ids, which trains the reserved rows that items without interactions look up."""

import numpy as np

from trainer.batching import seeds


def drop_item_ids(
    ids: np.ndarray,
    share: slice | np.ndarray,
    *,
    count: int,
    reserved: int,
    chance: float,
    seed: int,
    step: int,
) -> np.ndarray:
    """Replace some of a rank's item ids by the reserved one, whichever rank has them.

    Args:
        ids: Ids of this rank's candidates, (c,).
        share: Which of the step's candidates they are.
        count: Candidates of the step over all ranks.
        reserved: Reserved id.
        chance: Chance of being replaced, for each id.
        seed: Seed of the training.
        step: Number of the step.
    """
    draws = seeds.generator(seeds.ITEM_IDS, seed, step).random(count)[share]
    return np.where(draws < chance, reserved, ids)
