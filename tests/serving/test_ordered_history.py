"""What a known user is served with: items of all splits and newer ones, oldest first, each once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests import worlds
from trainer.dataset.sequences import Sequences, sequences_of
from trainer.dataset.vocabulary import Vocabulary, open_vocabulary
from trainer.serving.known_items import Newer
from trainer.serving.ordered_history import served_history
from trainer.storage.attributes import Ragged

NOTHING = np.array([], np.int64)


def sequences(items: list[int], times: list[int] | None) -> Sequences:
    """The sequences of user 0, the only one."""
    seconds = None if times is None else np.array(times)
    return sequences_of(np.zeros(len(items), np.int32), np.array(items, np.int32), seconds, 2)


def vocabulary(known: Sequences, held_out: Sequences | None) -> Vocabulary:
    ids = pa.array(range(9))
    return Vocabulary(
        user_ids=pa.array([1]),
        item_ids=ids,
        titles=None,
        item_name="item",
        seen=Ragged(known.items.offsets, np.sort(known.items.values)),
        sequences=known,
        held_out_sequences=held_out,
        held_out=None,
        disliked=None,
        user_categories={},
        item_categories={},
        item_attributes=pa.table({}),
    )


def test_a_test_item_stands_where_its_time_says() -> None:
    # Splits at random hold out items from the middle of a history, too.
    found = served_history(vocabulary(sequences([4, 2], [10, 30]), sequences([7, 3], [20, 40])), 0, None)
    assert found is not None
    assert [each.tolist() for each in found if each is not None] == [[4, 7, 2, 3], [10, 20, 30, 40]]


def test_without_times_test_items_and_then_newer_ones_come_last_each_item_once() -> None:
    of_run = vocabulary(sequences([4, 2], None), sequences([7], None))
    found = served_history(of_run, 0, Newer(np.array([5, 4, 1]), None))
    assert found is not None
    assert (found[0].tolist(), found[1]) == ([4, 2, 7, 5, 1], None)


def test_newer_items_without_times_come_at_the_usual_gap() -> None:
    # An hour and an hour apart: the next ones are an hour and two hours after the last.
    of_run = vocabulary(sequences([4, 2, 0], [0, 3600, 7200]), None)
    found = served_history(of_run, 0, Newer(np.array([5, 1]), None))
    assert found is not None
    assert [each.tolist() for each in found if each is not None] == [
        [4, 2, 0, 5, 1],
        [0, 3600, 7200, 10800, 14400],
    ]


@pytest.mark.parametrize("newer", [None, Newer(NOTHING, None)])
def test_a_user_of_whom_an_evaluation_knows_as_much_has_its_history(newer: Newer | None) -> None:
    assert served_history(vocabulary(sequences([4, 2], [1, 2]), None), 0, newer) is None


@pytest.mark.parametrize(
    ("split", "known"), [("leave_last_out", True), ("random", False), ("per_user", False)]
)
def test_the_order_of_a_file_says_where_test_items_stand_only_if_they_are_the_last(
    tmp_path: Path, split: str, known: bool
) -> None:
    data = worlds.ordered_options(tmp_path, worlds.cycle(users=6))[:-2]
    quick = "--run.choose", "false", "--run.epochs", "1", "--model.low_rank", "0"
    run = worlds.trained(tmp_path, *data, "--data.order", "file", "--data.split", split, *quick)
    assert (open_vocabulary(run).held_out_sequences is not None) == known
