"""Top-k metrics of a sharded model over the full catalogue, beside rankers without a training.

Every rank computes tower vectors; rank 0 receives the item matrix once and the users' vectors a chunk at a
time, so that its memory is the item matrix and one chunk. The figures do not depend on the world size.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from trainer.dataset.attributes import Ragged
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World
from trainer.errors import DataError
from trainer.evaluation.baselines import popularity_scores, rank_by_scores, rank_randomly
from trainer.evaluation.beyond_accuracy import Background, Tally, background
from trainer.evaluation.item_item import check_size, kept_weights, rank_by_history, training_matrix
from trainer.evaluation.metrics import measure
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.model.edlae import cached_towers
from trainer.model.retriever import TowerPair, candidate_vectors, query_vectors

LOW_RANK = 128
"""Width of the closed-form two-tower as a baseline, or the catalogue's where that is smaller."""

QUIET_SECONDS, SECONDS_BETWEEN_LINES = 2, 60
"""How long an evaluation runs before a bar is shown; seconds between lines where there is no terminal."""

Ranker = Callable[[np.ndarray, ItemLists], torch.Tensor]
"""User rows (B,) and the items that each must not get -> their lists, (B, k)."""


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
        baselines: other rankers to measure: `popularity`, `random`, `item_knn`, `ease`, `low_rank`.
        beyond: take the measures beyond accuracy as well.
        per_user: keep the metrics of every user.
    """

    split: str = "test"
    seen: str = "mask"
    ks: Sequence[int] = (10,)
    chunk: int = 4096
    sharded: bool = False
    seed: int = 42
    baselines: Sequence[str] = ("popularity", "random")
    beyond: bool = False
    per_user: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What was measured by which protocol.

    Attributes:
        split, seen: the part searched for, and `mask` or `keep`.
        users, items: users measured, and items ranked for each.
        left_out: items that are retained from an earlier run, which are not ranked.
        rankers: mean of each metric over users, by ranker: `model`, then the baselines.
        beyond: measures beyond accuracy by ranker, if they were asked for.
        per_user: the model's metrics, (users,) each in the order of user rows, if they were asked for.
    """

    split: str
    seen: str
    users: int
    items: int
    rankers: dict[str, dict[str, float]]
    beyond: dict[str, dict[str, float]] = field(default_factory=dict)
    per_user: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: int = 0


def evaluate(
    tower_pairs: Sequence[TowerPair], dataset: Dataset, world: World, protocol: Protocol
) -> Evaluation | None:
    """Measure towers on every user who has held-out items.

    Args:
        served: towers whose vectors stand side by side, on every rank alike; not wrapped for training.
    Returns: the evaluation on rank 0, None elsewhere.
    Raises: DataError if the split holds nothing, or the catalogue is too large for a baseline; DivergedError
        if scores are no numbers.
    """
    held_out = dataset.held_out(protocol.split)
    seen = dataset.seen(protocol.split) if protocol.seen == "mask" else None
    users = measured_users(dataset, protocol)
    # Without the items that are retained from an earlier run, which nobody can be looking for.
    items = _item_vectors(tower_pairs, dataset.evaluated_items, world, protocol)
    rankers = {name: _ranker(name, dataset, protocol) for name in protocol.baselines if world.is_first}
    against = _background(dataset, users) if protocol.beyond and world.is_first else None
    figures: dict[str, _Figures] = {}
    for start in _shown(range(0, len(users), protocol.chunk), len(users), world.is_first):
        rows = users[start : start + protocol.chunk]
        ranked = _rank(tower_pairs, items, rows, seen, world, protocol)
        if ranked is None:
            continue
        exclude, truth = _nothing(len(rows)) if seen is None else _take(seen, rows), _take(held_out, rows)
        lists = {"model": ranked} | {name: ranker(rows, exclude) for name, ranker in rankers.items()}
        for name, ranking in lists.items():
            figures.setdefault(name, _Figures(protocol, against)).add(ranking, truth, start)
    if not world.is_first:
        return None
    return Evaluation(
        protocol.split,
        protocol.seen,
        len(users),
        dataset.evaluated_items,
        {name: each.means(len(users)) for name, each in figures.items()},
        {name: each.tally.figures() for name, each in figures.items() if each.tally},
        figures["model"].per_user() if protocol.per_user else {},
        dataset.item_count - dataset.evaluated_items,
    )


def gathered_vectors(
    tower_pairs: Sequence[TowerPair], users: np.ndarray, item_count: int, world: World, protocol: Protocol
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Query vectors of the users and candidate vectors of the catalogue on rank 0, on CPU; None elsewhere."""
    items = _item_vectors(tower_pairs, item_count, world, replace(protocol, sharded=False))
    query = world.gather_to_first(
        query_vectors(tower_pairs, users[world.share(len(users))], world.device), world.shares(len(users))
    )
    return None if query is None or items is None else (query.cpu(), items.cpu())


def measured_users(dataset: Dataset, protocol: Protocol) -> np.ndarray:
    """Rows of the users to measure, once it is known on every rank that they can be."""
    users = np.flatnonzero(dataset.held_out(protocol.split).lengths())
    if not len(users):
        raise DataError(
            f"{dataset.name}: the {protocol.split} part holds no interactions. Cut one, for instance "
            f"--data.{protocol.split}_size 0.2, or measure another part with --split"
        )
    for name in protocol.baselines:
        check_size(name, dataset.evaluated_items)
    return users


def _shown(starts: range, users: int, active: bool) -> Iterator[int]:
    """The chunks' first users, with a bar on a terminal and otherwise a line now and then, both on stderr."""
    begun = said = time.monotonic()
    on_terminal = active and sys.stderr.isatty()
    with tqdm(total=users, unit="user", delay=QUIET_SECONDS, disable=not on_terminal, leave=False) as bar:
        for start in starts:
            now = time.monotonic()
            if active and not on_terminal and now - said >= SECONDS_BETWEEN_LINES:
                left = (now - begun) / start * (users - start)
                print(f"{start:,} of {users:,} users ranked, {left:,.0f} s left", file=sys.stderr, flush=True)
                said = now
            yield start
            bar.update(min(starts.step, users - start))


class _Figures:
    """What is kept of one ranker's lists, chunk after chunk."""

    def __init__(self, protocol: Protocol, against: Background | None) -> None:
        self._protocol = protocol
        self._sums: dict[str, float] = {}
        self._values: dict[str, list[torch.Tensor]] = {}
        self.tally = Tally(against, protocol.ks) if against else None

    def add(self, ranking: torch.Tensor, held_out: ItemLists, first: int) -> None:
        for metric, values in measure(hits(ranking, held_out), held_out[0], self._protocol.ks).items():
            self._sums[metric] = self._sums.get(metric, 0.0) + float(values.sum())
            if self._protocol.per_user:
                self._values.setdefault(metric, []).append(values)
        if self.tally:
            self.tally.add(ranking, held_out, first)

    def means(self, users: int) -> dict[str, float]:
        return {metric: total / users for metric, total in self._sums.items()}

    def per_user(self) -> dict[str, np.ndarray]:
        return {metric: torch.cat(values).numpy() for metric, values in self._values.items()}


def _ranker(name: str, dataset: Dataset, protocol: Protocol) -> Ranker:
    """A baseline, learned from the training part."""
    k, count = max(protocol.ks), dataset.evaluated_items
    if name == "popularity":
        scores = popularity_scores(torch.tensor(dataset.train.items), count)
        return lambda rows, exclude: rank_by_scores(scores, k, exclude)
    if name == "random":
        width = min(k, count)  # each place costs a sort
        return lambda rows, exclude: torch.nn.functional.pad(
            rank_randomly(torch.from_numpy(rows), count, width, exclude, protocol.seed),
            (0, k - width),
            value=-1,
        )
    history = training_matrix(dataset.train_by_user(), count)  # before validation: the training part
    if name == "low_rank":
        table, vectors = cached_towers(dataset, min(LOW_RANK, count))
        items = torch.from_numpy(vectors[:count].copy())
        return lambda rows, exclude: top_k(
            torch.from_numpy(history[rows] @ table[:count]), items, k, exclude
        )[1]
    weights = kept_weights(dataset.folder, name, history)
    return lambda rows, exclude: rank_by_history(weights, history[rows], k, exclude)


def _background(dataset: Dataset, users: np.ndarray) -> Background:
    counts = popularity_scores(torch.tensor(dataset.train.items), dataset.evaluated_items)
    return background(counts, dataset.train_by_user().lengths(), users, dataset.item_features)


def _rank(
    tower_pairs: Sequence[TowerPair],
    items: torch.Tensor | None,
    rows: np.ndarray,
    seen: Ragged | None,
    world: World,
    protocol: Protocol,
) -> torch.Tensor | None:
    """Best items of the users in `rows`, (len(rows), k), on rank 0; None elsewhere."""
    k, counts, mine = max(protocol.ks), world.shares(len(rows)), rows[world.share(len(rows))]
    vectors = query_vectors(tower_pairs, mine, world.device)
    if protocol.sharded:
        assert items is not None
        exclude = None if seen is None else _take(seen, mine, world)
        return _to_cpu(world.gather_to_first(top_k(vectors, items, k, exclude)[1], counts))
    gathered = world.gather_to_first(vectors, counts)
    if gathered is None or items is None:
        return None
    exclude = None if seen is None else _take(seen, rows, world)
    return _to_cpu(top_k(gathered, items, k, exclude)[1])


def _item_vectors(
    tower_pairs: Sequence[TowerPair], item_count: int, world: World, protocol: Protocol
) -> torch.Tensor | None:
    """Candidate vectors of the catalogue, (items, D), on rank 0; where evaluation is sharded, everywhere."""
    matrix, gather = None, world.gather_rows if protocol.sharded else world.gather_to_first
    for start in range(0, item_count, protocol.chunk * world.size):
        rows = np.arange(start, min(start + protocol.chunk * world.size, item_count))
        vectors = candidate_vectors(tower_pairs, rows[world.share(len(rows))], world.device)
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
