"""Metrics beyond accuracy: catalogue exposure, novelty and diversity of lists, and NDCG by group.

Rankings are (B, K) int64 item rows, best first, -1 where a list is shorter. A user's value is NaN where the
metric does not apply to the user, who then does not count in its mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from trainer.evaluation.metrics import ndcg
from trainer.evaluation.topk import ItemLists, hits, owners
from trainer.storage.attributes import Feature

ACTIVITIES = ("light", "medium", "heavy")
POPULARITIES = ("head", "middle", "tail")
PAIR_BLOCK = 2**18
"""Pairs of items whose attributes are compared at a time, in some tens of megabytes."""


def exposure(ranking: Tensor, item_count: int) -> Tensor:
    """Count the lists that hold each item, (N,) int64."""
    return torch.bincount(ranking[ranking >= 0], minlength=item_count)


def coverage(exposures: Tensor) -> float:
    """Compute catalogue coverage: the share of the items that at least one list holds.

    Args:
        exposures: (N,) number of lists that hold each item, N at least 1.

    Source: Ge, Delgado-Battenfeld and Jannach, RecSys 2010.
    """
    return float((exposures > 0).double().mean())


def gini(exposures: Tensor) -> float:
    """Compute the Gini index of exposure.

    It is 0 if all items are in equally many lists and (N - 1) / N if one item has all:
    sum over i of (2 i - N - 1) x_i / (N sum of x), with x ascending and i from 1; 0 if there is no list.

    Args:
        exposures: (N,) number of lists that hold each item, N at least 1.

    Source: Gini 1912; of recommendations: Fleder and Hosanagar, Management Science 2009.
    """
    ascending, count = exposures.double().sort().values, len(exposures)
    weights = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
    total = float(ascending.sum())
    return float(weights @ ascending) / (count * total) if total else 0.0


def self_information(item_counts: Tensor, user_count: int) -> Tensor:
    """Compute log2(users / users who have the item), (N,) float64 bits: how unexpected an item is.

    An item that nobody has counts as one that a single user has, as its own value would be infinite.

    Args:
        item_counts: (N,) training interactions of each item.
        user_count: Users with training interactions; 0 counts as 1.

    Source: Zhou et al., PNAS 2010.
    """
    return (max(user_count, 1) / item_counts.double().clamp(min=1)).log2()


def novelty(ranking: Tensor, information: Tensor) -> Tensor:
    """Compute the mean self-information of each list's items, (B,) float64 bits; NaN for an empty list.

    Args:
        ranking: (B, K) item rows.
        information: (N,) bits, see `self_information`.

    Source: Zhou et al., PNAS 2010.
    """
    listed = ranking >= 0
    return (information[ranking.clamp(min=0)] * listed).sum(1) / listed.sum(1)


def intra_list_diversity(ranking: Tensor, attributes: csr_array) -> Tensor:
    """Compute 1 - the mean Jaccard index of the categories of all pairs of a list's items, (B,) float64.

    The Jaccard index is |A and B| / |A or B|, and 0 for two items without any category. NaN for a list with
    fewer than two items.

    Args:
        ranking: (B, K) item rows.
        attributes: (N, categories) ones where an item has a category.

    Source: Ziegler et al., WWW 2005; Jaccard 1901.
    """
    first, second = np.triu_indices(ranking.shape[1], 1)
    sizes = np.diff(attributes.indptr)
    diversities = torch.full((len(ranking),), torch.nan, dtype=torch.float64)
    if not len(first):
        return diversities
    rows = max(PAIR_BLOCK // len(first), 1)
    for start in range(0, len(ranking), rows):
        block = ranking[start : start + rows].numpy()
        one, other = block[:, first].ravel(), block[:, second].ravel()
        common = attributes[one].multiply(attributes[other]).sum(axis=1)
        either = np.maximum(sizes[one] + sizes[other] - common, 1)
        pairs = (other >= 0).reshape(len(block), -1)  # the first item precedes the other, so it exists too
        similar = ((common / either).reshape(pairs.shape) * pairs).sum(1)
        count = pairs.sum(1)
        found = np.where(count > 0, 1 - similar / np.maximum(count, 1), np.nan)
        diversities[start : start + rows] = torch.from_numpy(found)
    return diversities


def activity_thirds(interactions: Tensor) -> Tensor:
    """Divide the users into thirds by training interactions: 0 for the least active, 2 for the most active.

    The sizes differ by one user at most; equally active users stay in the order of rows. With fewer than
    three users a third is empty.

    Args:
        interactions: (U,) training interactions of each user.

    Returns:
        (U,) int64.
    """
    order, thirds = interactions.argsort(stable=True), torch.empty_like(interactions, dtype=torch.int64)
    thirds[order] = torch.arange(len(order)) * 3 // max(len(order), 1)
    return thirds


def popularity_thirds(item_counts: Tensor) -> Tensor:
    """Divide the items into head (0), middle (1) and tail (2), a third of the training interactions each.

    Items are sorted by popularity, equal ones by row; an item belongs to the third in which its first
    interaction falls. So the head is few items and the tail is many, those without interactions among them.

    Args:
        item_counts: (N,) training interactions of each item; where all are 0, all are in the tail.

    Returns:
        (N,) int64.

    Source: head and tail as in Anderson, The Long Tail, 2006; equal shares are our choice.
    """
    order, thirds = item_counts.argsort(descending=True, stable=True), torch.empty_like(item_counts).long()
    counts = item_counts[order].long()
    before, total = counts.cumsum(0) - counts, int(counts.sum())
    thirds[order] = (before * 3 // total).clamp(max=2) if total else torch.full_like(counts, 2)
    return thirds


def ndcg_of_items(ranking: Tensor, held_out: ItemLists, members: Tensor, k: int) -> Tensor:
    """Compute NDCG@k where only the held-out items of one group are relevant, (B,) float64.

    The lists stay as they are: an item of another group takes its rank and gains nothing. NaN for a user
    without held-out items of the group.

    Args:
        ranking: (B, K) item rows.
        held_out: A list of item rows for each of the B users.
        members: (N,) bool, whether an item is in the group.
        k: Number of ranks that count.

    Source: Järvelin and Kekäläinen, TOIS 2002.
    """
    users, wanted = owners(held_out, len(ranking), len(members)), members[held_out[1].long()]
    relevant = torch.bincount(users[wanted], minlength=len(ranking))
    found = hits(ranking, held_out) & members[ranking.clamp(min=0)]
    values = ndcg(found, relevant.clamp(min=1), k)
    return values.masked_fill(relevant == 0, torch.nan)


@dataclass(frozen=True)
class TrainingFacts:
    """What the metrics need to know of the training split.

    Attributes:
        information: (N,) float64 bits, see `self_information`.
        popularity: (N,) int64, see `popularity_thirds`.
        activity: (U,) int64, see `activity_thirds`, of the evaluated users, in their order.
        attributes: (N, categories) of ones, by name of each item attribute that is a list of categories.
    """

    information: Tensor
    popularity: Tensor
    activity: Tensor
    attributes: dict[str, csr_array]


def training_facts(
    item_counts: Tensor, interactions: np.ndarray, users: np.ndarray, features: dict[str, Feature]
) -> TrainingFacts:
    """Collect what the metrics need to know of the training split.

    Args:
        item_counts: (N,) training interactions of each item.
        interactions: Training interactions of each user row.
        users: Rows of the evaluated users.
        features: Item attributes; one that has exactly one category for each item gives no diversity and is
            left out.
    """
    lists = {name: each for name, each in features.items() if (each.bags.lengths() != 1).any()}
    return TrainingFacts(
        self_information(item_counts, int(np.count_nonzero(interactions))),
        popularity_thirds(item_counts),
        activity_thirds(torch.from_numpy(interactions[users])),
        {name: category_matrix(feature) for name, feature in lists.items()},
    )


def category_matrix(feature: Feature) -> csr_array:
    """Return ones where an item has a category, (N, size - 1); the last category, `unknown`, is left out."""
    bags, rows = feature.bags, len(feature.bags.offsets) - 1
    counted = csr_array(
        (np.ones(len(bags.values)), bags.values, bags.offsets), shape=(rows, feature.size), copy=True
    )[:, : feature.size - 1]
    counted.sum_duplicates()
    counted.data[:] = 1
    return counted


class BeyondAccuracy:
    """Accumulates the metrics beyond accuracy of one ranker over chunks of users.

    Args:
        facts: See `training_facts`.
        ks: Lengths of the list, as in `coverage@10`.
    """

    def __init__(self, facts: TrainingFacts, ks: Sequence[int]) -> None:
        self._facts, self._ks = facts, ks
        self._exposures = {k: torch.zeros(len(facts.popularity), dtype=torch.int64) for k in ks}
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, ranking: Tensor, held_out: ItemLists, first: int) -> None:
        """Add the lists of a chunk of users.

        Args:
            ranking: (B, K), K at least the largest of the ks.
            held_out: A list of at least one item for each of the B users.
            first: Position of the chunk's first user among all evaluated users.
        """
        activity = self._facts.activity[first : first + len(ranking)]
        for k in self._ks:
            top = ranking[:, :k]
            self._exposures[k] += exposure(top, len(self._exposures[k]))
            self._add(f"novelty@{k}", novelty(top, self._facts.information))
            for name, attributes in self._facts.attributes.items():
                self._add(f"{name}_diversity@{k}", intra_list_diversity(top, attributes))
            gains = ndcg(hits(top, held_out), held_out[0], k)
            for third, name in enumerate(ACTIVITIES):
                self._add(f"ndcg_{name}@{k}", gains[activity == third])
            for third, name in enumerate(POPULARITIES):
                members = self._facts.popularity == third
                self._add(f"ndcg_{name}@{k}", ndcg_of_items(top, held_out, members, k))

    def means(self) -> dict[str, float]:
        """Return coverage, Gini index, and means of the other metrics over the users to whom they apply."""
        found: dict[str, float] = {}
        for k, exposures in self._exposures.items():
            found |= {f"coverage@{k}": coverage(exposures), f"gini@{k}": gini(exposures)}
            of_k = {name: each for name, each in self._sums.items() if name.endswith(f"@{k}")}
            found |= {name: total / count for name, (total, count) in of_k.items() if count}
        return found

    def _add(self, name: str, values: Tensor) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        applies = ~values.isnan()
        self._sums[name] = (total + float(values[applies].sum()), count + int(applies.sum()))
