"""The ordered history with which a known user is served: all that is known of the user, oldest first."""

import numpy as np
import yaml

from trainer.dataset.sequences import Sequences
from trainer.dataset.vocabulary import Vocabulary
from trainer.facts.histories import history_spec
from trainer.histories.recency import usual_gap
from trainer.runs.checkpoint_store import CONFIG, SavedCheckpoint
from trainer.serving.known_items import Newer


def has_ordered_histories(saved: SavedCheckpoint) -> bool:
    """Return whether a run's query tower takes the items of users in order."""
    # Reading all of the configuration takes as long as the rest of an answer.
    model = yaml.safe_load((saved.folder / CONFIG).read_text())["model"]
    return history_spec(model.get("history")).ordered


def served_history(
    vocabulary: Vocabulary, row: int, newer: Newer | None
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Return the items of a user with their times, oldest first; None if an evaluation knows as many.

    These are the training, validation and test items, where the order of the latter is known, and newer ones
    behind them. Newer items without times are taken to come at the gap that is usual in the data.

    Args:
        vocabulary: Of a run with ordered histories.
        row: The user.
        newer: Items that the run does not know of this user yet.

    Returns:
        (n,) int32 item rows, each once, and (n,) int64 seconds or, in data without timestamps, None.
    """
    known = vocabulary.sequences
    assert known is not None, "ordered histories are made of sequences"
    items, times = _of_user(known, row)
    before = len(items)
    if vocabulary.held_out_sequences is not None:
        later, moments = _of_user(vocabulary.held_out_sequences, row)
        items = np.append(items, later)
        if times is not None and moments is not None:
            times = np.append(times, moments)
    if newer is not None and len(newer.items):
        items = np.append(items, newer.items)
        if times is not None and known.times is not None:
            times = np.append(times, _times_of(newer, int(times.max(initial=0)), usual_gap(known.times)))
    if len(items) == before:
        return None
    # Splits need not go by time: a test item may be older than a training item.
    order = np.arange(len(items)) if times is None else np.argsort(times, kind="stable")
    items = items[order]
    once = np.sort(np.unique(items, return_index=True)[1])
    return items[once].astype(np.int32), None if times is None else times[order][once]


def _of_user(sequences: Sequences, row: int) -> tuple[np.ndarray, np.ndarray | None]:
    rows = np.array([row])
    return sequences.items.take(rows)[1], None if sequences.times is None else sequences.times.take(rows)[1]


def _times_of(newer: Newer, last: int, gap: float) -> np.ndarray:
    """Return the seconds of newer items: their own or, without any, one `gap` after another from `last`."""
    if newer.times is not None:
        return newer.times
    return last + np.round(np.arange(1, len(newer.items) + 1) * gap).astype(np.int64)
