"""Top-k metrics of a sharded model over the full catalogue, beside popularity and chance.

Every rank computes tower vectors; rank 0 receives the item matrix once and the users' vectors a chunk at a
time, so that its memory is the item matrix and one chunk. The figures do not depend on the world size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchrec import KeyedJaggedTensor

from trainer.data.dataset import Dataset
from trainer.data.features import Ragged
from trainer.data.inputs import Inputs, keyed_jagged
from trainer.errors import DataError
from trainer.evaluation.baselines import popularity_scores, rank_by_scores, rank_randomly
from trainer.evaluation.metrics import measure
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.model.towers import TwoTowers
from trainer.parallel.world import World


@dataclass(frozen=True)
class Evaluation:
    """What was measured by which protocol.

    Attributes:
        split, seen: the part searched for, and `mask` or `keep`.
        users, items: users measured, and items ranked for each.
        rankers: mean of each metric over users, by ranker: `model`, `popularity`, `random`.
    """

    split: str
    seen: str
    users: int
    items: int
    rankers: dict[str, dict[str, float]]


def evaluate(
    towers: TwoTowers,
    dataset: Dataset,
    user_inputs: Inputs,
    item_inputs: Inputs,
    world: World,
    split: str = "test",
    seen: str = "mask",
    ks: Sequence[int] = (10,),
    chunk: int = 4096,
    sharded: bool = False,
    seed: int = 42,
    baselines: bool = True,
) -> Evaluation | None:
    """Measure the towers on every user who has held-out items.

    Args:
        towers: with sharded tables, on every rank alike; not wrapped for data-parallel training.
        user_inputs, item_inputs: features of both sides.
        split: `test` or `validation`.
        seen: `mask` leaves items from before the split out of the ranking, `keep` ranks them too.
        ks: lengths of the ranked lists.
        chunk: users scored at a time.
        sharded: every rank ranks its own users, and rank 0 measures.
        seed: of the random ranker.
        baselines: rank by popularity and by chance as well.
    Returns: the evaluation on rank 0, None elsewhere.
    Raises: DataError if the split holds nothing.
    """
    held_out, known = dataset.held_out(split), dataset.known(split)
    users = np.flatnonzero(held_out.lengths())
    if not len(users):
        raise DataError(
            f"{dataset.name}: the {split} part holds no interactions. Cut one, for instance "
            f"--data.{split}_size 0.2, or measure another part with --split"
        )
    item_vectors = _item_vectors(towers, item_inputs, dataset.item_count, world, chunk, everywhere=sharded)
    popularity = (
        popularity_scores(torch.tensor(dataset.train.items), dataset.item_count)
        if baselines and world.is_first
        else None
    )
    sums: dict[str, dict[str, float]] = {}
    for start in range(0, len(users), chunk):
        rows = users[start : start + chunk]
        ranked = _rank(
            towers,
            item_vectors,
            user_inputs,
            rows,
            known if seen == "mask" else None,
            max(ks),
            world,
            sharded,
        )
        if ranked is None:
            continue
        exclude = _take(known, rows) if seen == "mask" else _nothing(len(rows))
        lists = {"model": ranked}
        if popularity is not None:
            lists["popularity"] = rank_by_scores(popularity, max(ks), exclude)
            lists["random"] = rank_randomly(
                torch.from_numpy(rows), dataset.item_count, max(ks), exclude, seed
            )
        truth = _take(held_out, rows)
        for ranker, ranking in lists.items():
            measured = measure(hits(ranking, truth), truth[0], ks)
            totals = sums.setdefault(ranker, dict.fromkeys(measured, 0.0))
            for metric, values in measured.items():
                totals[metric] += float(values.sum())
    if not world.is_first:
        return None
    means = {
        ranker: {metric: total / len(users) for metric, total in totals.items()}
        for ranker, totals in sums.items()
    }
    return Evaluation(split, seen, len(users), dataset.item_count, means)


def _rank(
    towers: TwoTowers,
    item_vectors: torch.Tensor | None,
    user_inputs: Inputs,
    rows: np.ndarray,
    exclude: Ragged | None,
    k: int,
    world: World,
    sharded: bool,
) -> torch.Tensor | None:
    """Best items of the users in `rows`, (len(rows), k), on rank 0; None elsewhere."""
    counts, mine = world.shares(len(rows)), rows[world.share(len(rows))]
    vectors = _vectors(towers.queries, user_inputs, mine, world)
    if sharded:
        assert item_vectors is not None
        mine_excluded = None if exclude is None else _take(exclude, mine, world)
        ranked = top_k(vectors, item_vectors, k, mine_excluded)[1]
        return _to_cpu(world.gather_to_first(ranked, counts))
    gathered = world.gather_to_first(vectors, counts)
    if gathered is None or item_vectors is None:
        return None
    excluded = None if exclude is None else _take(exclude, rows, world)
    return _to_cpu(top_k(gathered, item_vectors, k, excluded)[1])


def _item_vectors(
    towers: TwoTowers, inputs: Inputs, items: int, world: World, chunk: int, everywhere: bool
) -> torch.Tensor | None:
    """Candidate vectors of the catalogue, (items, D), on rank 0 or everywhere."""
    matrix = None
    for start in range(0, items, chunk * world.size):
        rows = np.arange(start, min(start + chunk * world.size, items))
        counts = world.shares(len(rows))
        vectors = _vectors(towers.candidates, inputs, rows[world.share(len(rows))], world)
        gathered = (
            world.gather_rows(vectors, counts) if everywhere else world.gather_to_first(vectors, counts)
        )
        if gathered is not None:
            if matrix is None:
                matrix = gathered.new_empty(items, gathered.shape[1])
            matrix[rows[0] : rows[-1] + 1] = gathered
    return matrix


def _vectors(
    tower: Callable[[KeyedJaggedTensor], torch.Tensor], inputs: Inputs, rows: np.ndarray, world: World
) -> torch.Tensor:
    with torch.no_grad():
        return tower(keyed_jagged(inputs, rows).to(world.device))


def _take(bags: Ragged, rows: np.ndarray, world: World | None = None) -> ItemLists:
    lengths, values = bags.take(rows)
    device = world.device if world else torch.device("cpu")
    return torch.from_numpy(lengths).to(device), torch.from_numpy(values).to(device)


def _nothing(users: int) -> ItemLists:
    return torch.zeros(users, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)


def _to_cpu(rows: torch.Tensor | None) -> torch.Tensor | None:
    return None if rows is None else rows.cpu()
