"""The users who are shown: spread over activity, the same each time."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from trainer.dataset.vocabulary import open_vocabulary
from trainer.report.examples import chosen_users, examples
from trainer.report.facts import read_run
from trainer.storage.attributes import Ragged


def test_users_are_the_middles_of_ten_parts_by_activity(run: Path) -> None:
    vocabulary = open_vocabulary(run)
    counts = np.append(np.arange(40)[::-1], 0)  # the first user is the most active one, the last has nothing
    offsets = np.append(0, np.cumsum(counts))
    many = replace(
        vocabulary,
        user_ids=np.arange(40),
        seen=Ragged(offsets, np.zeros(offsets[-1], np.int32)),
        held_out=None,
    )
    # 39 users have something; the middles of tenths of them are the places 1, 5, 9, ... 37.
    found = chosen_users(many)
    assert [int(counts[row]) for row in found] == [2, 6, 10, 14, 18, 22, 26, 30, 34, 38]


def test_a_user_has_past_list_and_hits(run: Path) -> None:
    found = examples(read_run(run))
    assert len(found) == 10
    for each in found:
        # Each user has three items of their colour before, and the withheld fourth comes first.
        assert (each.had, len(each.past), each.held_out) == (3, 3, 1)
        assert [hit for _, hit in each.listed] == [True, False, False, False, False]
