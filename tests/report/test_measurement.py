"""Intervals and groups, against arithmetic written out."""

import numpy as np
import pytest

from trainer.report.measurement import activity_groups, differences, intervals


def test_an_interval_is_that_of_a_mean() -> None:
    values = np.array([0.0, 1.0] * 200)
    found = intervals({"coin": values, "sure": np.ones(400)}, seed=1)
    assert found["coin"].mean == 0.5
    # The mean of 400 coins has deviation 0.5 / 20.
    assert found["coin"].low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert found["coin"].high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
    assert (found["sure"].low, found["sure"].high) == (1, 1)


def test_differences_are_paired_by_user() -> None:
    hard = np.linspace(0, 1, 100)
    found = differences({"better": (hard + 0.1, hard)}, seed=1)["better"]
    # What makes users hard cancels out: every user gains 0.1.
    assert (found.difference, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert differences({}, seed=1) == {}


def test_groups_hold_equal_counts_together() -> None:
    groups = activity_groups(np.array([1] * 6 + [2, 3, 4, 90]))
    assert [(label, int(members.sum())) for label, members in groups] == [
        ("1", 6),
        ("2\u20133", 2),
        ("4\u201390", 2),
    ]
    assert [label for label, _ in activity_groups(np.array([5, 5]))] == ["5"]
