"""Top-k metrics of a sharded model over the full catalogue, beside popularity and chance.

Every rank computes tower vectors; rank 0 receives the item matrix once and the users' vectors a chunk at a
time, so that its memory is the item matrix and one chunk. The figures do not depend on the world size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data.dataset import Dataset
from trainer.data.features import Ragged
from trainer.errors import DataError
from trainer.evaluation.baselines import popularity_scores, rank_by_scores, rank_randomly
from trainer.evaluation.metrics import measure
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.model.served import Served, candidate_vectors, query_vectors
from trainer.parallel.world import World


@dataclass(frozen=True)
class Protocol:
    """How a model is measured.

    Attributes:
        split: `test` or `validation`.
        seen: `mask` leaves items from before the split out of the ranking, `keep` ranks them too.
        ks: lengths of the ranked lists.
        chunk: users scored, and items looked up by a rank, at a time.
        sharded: every rank ranks its own users, and rank 0 measures.
        seed: of the random ranker.
        baselines: rank by popularity and by chance as well.
    """

    split: str = "test"
    seen: str = "mask"
    ks: Sequence[int] = (10,)
    chunk: int = 4096
    sharded: bool = False
    seed: int = 42
    baselines: bool = True


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
    served: Sequence[Served], dataset: Dataset, world: World, protocol: Protocol
) -> Evaluation | None:
    """Measure towers on every user who has held-out items.

    Args:
        served: towers whose vectors stand side by side, on every rank alike; not wrapped for training.
    Returns: the evaluation on rank 0, None elsewhere.
    Raises: DataError if the split holds nothing; DivergedError if scores are no numbers.
    """
    held_out = dataset.held_out(protocol.split)
    known = dataset.known(protocol.split) if protocol.seen == "mask" else None
    users = np.flatnonzero(held_out.lengths())
    if not len(users):
        raise DataError(
            f"{dataset.name}: the {protocol.split} part holds no interactions. Cut one, for instance "
            f"--data.{protocol.split}_size 0.2, or measure another part with --split"
        )
    items = _item_vectors(served, dataset.item_count, world, protocol)
    popularity = None
    if protocol.baselines and world.is_first:
        popularity = popularity_scores(torch.tensor(dataset.train.items), dataset.item_count)
    sums: dict[str, dict[str, float]] = {}
    for start in range(0, len(users), protocol.chunk):
        rows = users[start : start + protocol.chunk]
        ranked = _rank(served, items, rows, known, world, protocol)
        if ranked is None:
            continue
        lists = {"model": ranked} | _baselines(popularity, rows, dataset.item_count, known, protocol)
        truth = _take(held_out, rows)
        for ranker, ranking in lists.items():
            for metric, values in measure(hits(ranking, truth), truth[0], protocol.ks).items():
                totals = sums.setdefault(ranker, {})
                totals[metric] = totals.get(metric, 0.0) + float(values.sum())
    if not world.is_first:
        return None
    means = {
        ranker: {metric: total / len(users) for metric, total in totals.items()}
        for ranker, totals in sums.items()
    }
    return Evaluation(protocol.split, protocol.seen, len(users), dataset.item_count, means)


def _baselines(
    popularity: torch.Tensor | None,
    rows: np.ndarray,
    item_count: int,
    known: Ragged | None,
    protocol: Protocol,
) -> dict[str, torch.Tensor]:
    """Lists of the rankers that know nothing of the user, (len(rows), k) each."""
    if popularity is None:
        return {}
    k, exclude = max(protocol.ks), _nothing(len(rows)) if known is None else _take(known, rows)
    drawn = rank_randomly(torch.from_numpy(rows), item_count, min(k, item_count), exclude, protocol.seed)
    return {
        "popularity": rank_by_scores(popularity, k, exclude),
        "random": torch.nn.functional.pad(drawn, (0, k - drawn.shape[1]), value=-1),
    }


def _rank(
    served: Sequence[Served],
    items: torch.Tensor | None,
    rows: np.ndarray,
    known: Ragged | None,
    world: World,
    protocol: Protocol,
) -> torch.Tensor | None:
    """Best items of the users in `rows`, (len(rows), k), on rank 0; None elsewhere."""
    k, counts, mine = max(protocol.ks), world.shares(len(rows)), rows[world.share(len(rows))]
    vectors = query_vectors(served, mine, world.device)
    if protocol.sharded:
        assert items is not None
        exclude = None if known is None else _take(known, mine, world)
        return _to_cpu(world.gather_to_first(top_k(vectors, items, k, exclude)[1], counts))
    gathered = world.gather_to_first(vectors, counts)
    if gathered is None or items is None:
        return None
    exclude = None if known is None else _take(known, rows, world)
    return _to_cpu(top_k(gathered, items, k, exclude)[1])


def _item_vectors(
    served: Sequence[Served], item_count: int, world: World, protocol: Protocol
) -> torch.Tensor | None:
    """Candidate vectors of the catalogue, (items, D), on rank 0; where evaluation is sharded, everywhere."""
    matrix, gather = None, world.gather_rows if protocol.sharded else world.gather_to_first
    for start in range(0, item_count, protocol.chunk * world.size):
        rows = np.arange(start, min(start + protocol.chunk * world.size, item_count))
        vectors = candidate_vectors(served, rows[world.share(len(rows))], world.device)
        gathered = gather(vectors, world.shares(len(rows)))
        if gathered is not None:
            matrix = gathered.new_empty(item_count, gathered.shape[1]) if matrix is None else matrix
            matrix[rows[0] : rows[-1] + 1] = gathered
    return matrix


def _take(bags: Ragged, rows: np.ndarray, world: World | None = None) -> ItemLists:
    lengths, values = bags.take(rows)
    device = world.device if world else torch.device("cpu")
    return torch.from_numpy(lengths).to(device), torch.from_numpy(values).to(device)


def _nothing(users: int) -> ItemLists:
    return torch.zeros(users, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)


def _to_cpu(rows: torch.Tensor | None) -> torch.Tensor | None:
    return None if rows is None else rows.cpu()
