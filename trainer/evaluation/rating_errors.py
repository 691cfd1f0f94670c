"""Errors of predicted values on a split, and how far the scores of seen and of all other pairs spread.

A loss that fits values sees rated pairs alone, while a ranking compares all pairs: both are shown.
"""

from dataclasses import dataclass

import numpy as np
import torch

from trainer.dataset.dataset import Dataset, Interactions
from trainer.distributed.world import World
from trainer.storage.attributes import Ragged

BLOCK_VALUES = 1 << 24
"""Float32 values of the vectors whose pairs are scored at a time: 64 MiB."""


@dataclass(frozen=True)
class RatingTarget:
    """What a loss fits scores to.

    Attributes:
        positive_value: A score is the logit of a value of at least this; None: it is the value itself.
    """

    positive_value: float | None = None

    def targets(self, values: torch.Tensor) -> torch.Tensor:
        """Return what the values of interactions are to be predicted as, float64."""
        if self.positive_value is None:
            return values.double()
        return (values >= self.positive_value).double()

    def predictions(self, scores: torch.Tensor) -> torch.Tensor:
        """Return what scores predict, float64: values, or chances of a 1."""
        return scores.double() if self.positive_value is None else scores.double().sigmoid()


@dataclass(frozen=True)
class RatingErrors:
    """Errors on the interactions of a split, in units of the value, and the spread of scores.

    Attributes:
        interactions: Number of interactions.
        rmse: Root mean squared error of the predictions.
        mae: Mean absolute error.
        mean: Mean of the training targets, including those of explicit negatives.
        mean_rmse: Root mean squared error of always predicting `mean`.
        mean_mae: Mean absolute error of the same.
        seen_mean: Mean score of the evaluated users' seen items.
        seen_sd: Standard deviation of these scores.
        unseen_mean: Mean score of all other items for the same users.
        unseen_sd: Standard deviation of these scores.
    """

    interactions: int
    rmse: float
    mae: float
    mean: float
    mean_rmse: float
    mean_mae: float
    seen_mean: float
    seen_sd: float
    unseen_mean: float
    unseen_sd: float


class RatingMeter:
    """Accumulates the errors over chunks of users, on the ranks that have their vectors."""

    def __init__(self, dataset: Dataset, split: str, target: RatingTarget, device: torch.device) -> None:
        """Compute the training mean, and group the values of the split by user.

        Args:
            dataset: Interactions, which have values.
            split: Split whose interactions are predicted.
            target: What scores predict.
            device: Device of the vectors.
        """
        held_out: Interactions = getattr(dataset, split)
        assert dataset.train.values is not None, "a loss that fits values has them"
        assert held_out.values is not None, "splits have the same columns"
        self._target, self._device = target, device
        fitted = dataset.train.values
        negatives = dataset.explicit_negatives()
        if negatives is not None and negatives.values is not None:
            fitted = np.concatenate([fitted, negatives.values])
        self._mean = float(target.targets(torch.tensor(fitted)).mean())
        self._pairs, self._seen = dataset.held_out(split), dataset.seen(split)
        # In the order of `held_out(split)`: by user, then by item.
        order = np.lexsort((held_out.items, held_out.users))
        self._values = Ragged(self._pairs.offsets, held_out.values[order])
        self._errors = torch.zeros(5, dtype=torch.float64, device=device)
        self._seen_scores = torch.zeros(3, dtype=torch.float64, device=device)
        self._all_scores = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, users: np.ndarray, query: torch.Tensor, items: torch.Tensor) -> None:
        """Add the held-out interactions and the scores of some users.

        Args:
            users: User rows, (B,).
            query: Their vectors, (B, D).
            items: Vectors of the catalogue, (N, D).
        """
        values = torch.from_numpy(self._values.take(users)[1]).to(self._device)
        errors = self._target.predictions(_scores(self._pairs, users, query, items))
        targets = self._target.targets(values)
        errors, of_mean = (errors - targets).abs(), (self._mean - targets).abs()
        self._errors += torch.stack(
            [_count(targets), errors.square().sum(), errors.sum(), of_mean.square().sum(), of_mean.sum()]
        )
        seen = _scores(self._seen, users, query, items).double()
        self._seen_scores += torch.stack([_count(seen), seen.sum(), seen.square().sum()])
        # Over all pairs, the sum of q.c is (sum of q).(sum of c), and that of (q.c)^2 is the sum of Q'Q times
        # C'C, element by element: no score is computed.
        query, items = query.double(), items.double()
        pairs = _count(query) * len(items)
        squares = ((query.T @ query) * (items.T @ items)).sum()
        self._all_scores += torch.stack([pairs, query.sum(0) @ items.sum(0), squares])

    def total(self, world: World) -> RatingErrors:
        """Return the errors over the users of all ranks; call this on every rank."""
        errors, seen, everything = world.sum(
            torch.cat([self._errors, self._seen_scores, self._all_scores])
        ).split([5, 3, 3])
        count, squares, distances, mean_squares, mean_distances = errors.tolist()
        seen_mean, seen_sd = _mean_and_sd(*seen.tolist())
        unseen_mean, unseen_sd = _mean_and_sd(*(everything - seen).tolist())
        return RatingErrors(
            interactions=round(count),
            rmse=(squares / count) ** 0.5,
            mae=distances / count,
            mean=self._mean,
            mean_rmse=(mean_squares / count) ** 0.5,
            mean_mae=mean_distances / count,
            seen_mean=seen_mean,
            seen_sd=seen_sd,
            unseen_mean=unseen_mean,
            unseen_sd=unseen_sd,
        )


def _scores(bags: Ragged, users: np.ndarray, query: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Return the scores of the items in each user's bag, one user's after another's."""
    lengths, columns = bags.take(users)
    rows = torch.from_numpy(np.repeat(np.arange(len(users)), lengths)).to(query.device)
    chosen = torch.from_numpy(columns.astype(np.int64)).to(query.device)
    block = max(BLOCK_VALUES // query.shape[1], 1)
    scores = [
        (query[of_rows] * items[of_items]).sum(1)
        for of_rows, of_items in zip(rows.split(block), chosen.split(block), strict=True)
    ]
    return torch.cat(scores) if scores else query.new_zeros(0)


def _count(values: torch.Tensor) -> torch.Tensor:
    return torch.tensor(float(len(values)), dtype=torch.float64, device=values.device)


def _mean_and_sd(count: float, total: float, squares: float) -> tuple[float, float]:
    """Return mean and standard deviation; both 0 where nothing was counted."""
    mean = total / max(count, 1)
    return mean, max(squares / max(count, 1) - mean**2, 0.0) ** 0.5
