"""The baseline of the speed comparison: a teaching notebook's two-tower model, in its own plain way.

One example at a time through a Dataset and a DataLoader, two nn.Embedding tables, mean squared error on the
rating, Adam; evaluated user by user: score every item, argsort, metrics in Python. Files are read by pandas'
Python engine, and ids mapped through dicts. Only the logic is the same.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Example = tuple[Tensor, Tensor, Tensor]


COLUMNS = {
    "ratings": ["user_id", "movie_id", "rating", "timestamp"],
    "movies": ["movie_id", "title", "genres"],
    "users": ["user_id", "gender", "age", "occupation", "zip_code"],
}


def read_and_map(folder: Path) -> pd.DataFrame:
    """The ratings of MovieLens 1M with titles, and rows in place of ids; users are read and not used."""
    ratings, movies, _ = (
        pd.read_csv(
            folder / f"{name}.dat", sep="::", header=None, names=names, engine="python", encoding="latin-1"
        )
        for name, names in COLUMNS.items()
    )
    data = ratings.merge(movies[["movie_id", "title"]], on="movie_id")
    for column, row in (("user_id", "user_idx"), ("movie_id", "movie_idx")):
        rows = {raw_id: number for number, raw_id in enumerate(data[column].unique())}
        data[row] = data[column].map(rows)
    return data


class Examples(Dataset[Example]):
    """User row, item row and rating of each interaction, indexed one by one."""

    def __init__(self, users: Tensor, items: Tensor, ratings: Tensor) -> None:
        self.users, self.items, self.ratings = users, items, ratings

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> Example:
        return self.users[index], self.items[index], self.ratings[index]


class Towers(nn.Module):
    """A table of user vectors and a table of item vectors; a rating is their dot product."""

    def __init__(self, user_count: int, item_count: int, dim: int) -> None:
        super().__init__()
        self.user = nn.Embedding(user_count, dim)
        self.item = nn.Embedding(item_count, dim)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(dim=1)


def endless_batches(examples: Examples, size: int = 1024) -> Iterator[Example]:
    """Shuffled batches, epoch after epoch."""
    loader = DataLoader(examples, batch_size=size, shuffle=True)
    while True:
        yield from loader


def train(towers: Towers, optimizer: torch.optim.Optimizer, batches: Iterator[Example], steps: int) -> int:
    """Train for a number of steps; returns the number of examples seen."""
    seen, total_loss = 0, 0.0
    for _ in range(steps):
        users, items, ratings = next(batches)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(towers(users, items), ratings)
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        seen += len(users)
    return seen


@torch.no_grad()
def evaluate(towers: Towers, held_out: dict[int, set[int]], k: int = 10) -> dict[str, float]:
    """Means over the users of `held_out` (user row -> item rows); seen items are ranked like all others."""
    catalogue = list(range(towers.item.num_embeddings))
    totals = {"ndcg": 0.0, "recall": 0.0, "precision": 0.0}
    for user, true_items in held_out.items():
        every_item = torch.tensor(catalogue)
        scores = towers(torch.tensor([user] * len(catalogue)), every_item).numpy()
        ranking = every_item.numpy()[scores.argsort()[::-1][:k]]
        found = [item in true_items for item in ranking]
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(len(true_items), k)))
        totals["ndcg"] += sum(hit / math.log2(rank + 2) for rank, hit in enumerate(found)) / ideal
        totals["recall"] += sum(found) / len(true_items)
        totals["precision"] += sum(found) / k
    return {f"{name}@{k}": total / len(held_out) for name, total in totals.items()}
