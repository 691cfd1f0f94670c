"""What a data set holds beyond what an earlier run was trained on."""

from dataclasses import dataclass

import numpy as np

from trainer.dataset.dataset import Dataset
from trainer.dataset.vocabulary import Vocabulary


@dataclass(frozen=True)
class News:
    """What a data set holds that an earlier run has neither trained nor validated on.

    Attributes:
        interactions: New training interactions.
        users: Users who have training interactions now and had none.
        items: The same for items.
        held_out: New interactions of the validation and test splits.
        trained: All training interactions, new or not.
    """

    interactions: int
    users: int
    items: int
    held_out: int
    trained: int


def news_of(before: Vocabulary, dataset: Dataset, users: np.ndarray, items: np.ndarray) -> News:
    """Count what a data set holds beyond what an earlier run was trained on.

    Args:
        before: Vocabulary of the earlier run.
        dataset: The data set.
        users: (users of the data set,) int64 row of each in the earlier run, or -1.
        items: The same for items.
    """
    old_users = np.append(before.seen.lengths()[:-1] > 0, False)[users]  # -1 is the last one
    old_items = np.append(np.bincount(before.seen.values, minlength=len(before.item_ids)) > 0, False)[items]
    train = dataset.train
    new, *held_out = (
        int(np.count_nonzero(~before.had(users[each.users], items[each.items])))
        for each in (train, dataset.validation, dataset.test)
    )
    return News(
        interactions=new,
        users=len(np.unique(train.users[~old_users[train.users]])),
        items=len(np.unique(train.items[~old_items[train.items]])),
        held_out=sum(held_out),
        trained=len(train),
    )
