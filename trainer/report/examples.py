"""Users as examples: what they had, what the model recommends, and what of it they took afterwards."""

from dataclasses import dataclass

import numpy as np

from trainer.dataset.vocabulary import Vocabulary
from trainer.report.facts import RunFacts
from trainer.report.item_map import popular
from trainer.serving.recommend import recommend

USERS, LENGTH = 10, 10
"""Users that are shown, and items of their past and of their lists."""


@dataclass(frozen=True)
class Example:
    """A user.

    Attributes:
        user: Raw id as text.
        had: Number of items before the test split.
        past: Some of these, as text: the latest first, or the most popular where there is no order.
        listed: The items recommended, as text, best first, and whether the test split has each.
        held_out: Number of items in the test split.
    """

    user: str
    had: int
    past: list[str]
    listed: list[tuple[str, bool]]
    held_out: int


def examples(run: RunFacts) -> list[Example]:
    """Return users who are spread evenly over activity, the least active first, each with a list."""
    vocabulary = run.vocabulary
    places = np.empty(len(vocabulary.item_ids), np.int64)
    places[popular(vocabulary)] = np.arange(len(places))
    return [_example(run, vocabulary, row, places) for row in chosen_users(vocabulary)]


def chosen_users(vocabulary: Vocabulary) -> list[int]:
    """Return the rows of the users in the middle of each of `USERS` equal parts, by activity, then by row.

    Those with a test split come from among the users who have something there.
    """
    counts = vocabulary.seen.lengths()[: len(vocabulary.user_ids)]
    eligible = counts > 0
    if vocabulary.held_out is not None:
        tested = vocabulary.held_out.lengths()[: len(counts)] > 0
        eligible &= tested if (eligible & tested).any() else True
    users = np.flatnonzero(eligible)
    users = users[np.argsort(counts[users], kind="stable")]
    middles = (2 * np.arange(USERS) + 1) * len(users) // (2 * USERS)
    return users[np.unique(middles)].tolist() if len(users) else []


def _example(run: RunFacts, vocabulary: Vocabulary, row: int, places: np.ndarray) -> Example:
    user, at = str(vocabulary.user_ids[row].as_py()), np.array([row])
    had = vocabulary.seen.take(at)[1]
    if vocabulary.sequences is not None:
        past = vocabulary.sequences.items.take(at)[1][::-1]
    else:
        past = had[np.argsort(places[had], kind="stable")]
    marked = vocabulary.held_out is not None and vocabulary.held_out.lengths()[row] > 0
    found = recommend(run.folder, user, LENGTH, mark="test" if marked else None)
    hits = found["test"].tolist() if marked else [False] * len(found)
    names = [
        str(item) if title is None else title
        for item, title in zip(found["item"], found["title"], strict=True)
    ]
    return Example(
        user=user,
        had=len(had),
        past=[item_name(vocabulary, each) for each in past[:LENGTH].tolist()],
        listed=list(zip(names, hits, strict=True)),
        held_out=0 if vocabulary.held_out is None else int(vocabulary.held_out.lengths()[row]),
    )


def item_name(vocabulary: Vocabulary, row: int) -> str:
    """Return the title of an item, or its raw id where it has none."""
    title = None if vocabulary.titles is None else vocabulary.titles[row].as_py()
    return str(vocabulary.item_ids[row].as_py()) if title is None else title
