"""Neighbours by direction, whatever the bias, the closed-form part and the lengths."""

import numpy as np
import pytest

from trainer.ranking.similar import similarities, unit_vectors


def test_only_the_direction_of_the_learned_part_counts() -> None:
    #                 learned     bias  closed form
    vectors = np.array(
        [
            [3.0, 4.0, 9.0, 5.0],
            [0.6, 0.8, 0.0, -5.0],  # the same direction
            [-4.0, 3.0, 9.0, 5.0],  # a right angle
            [4.0, 3.0, 0.0, 0.0],  # (12 + 12) / 25
            [0.0, 0.0, 1.0, 1.0],  # no direction
        ],
        np.float32,
    )
    found = similarities(unit_vectors(vectors, 2), 0)
    assert found.tolist() == pytest.approx([1, 1, 0, 0.96, 0], abs=1e-6)
