"""Top-k metrics of a sharded model over the full catalogue, next to those of baselines.

Every rank computes tower vectors; rank 0 receives the item matrix once and the users' vectors a chunk at a
time, so that its memory is the item matrix and one chunk. The metrics do not depend on the world size.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World
from trainer.errors import DataError
from trainer.evaluation.baselines import check_baselines, make_ranker, popularity_scores
from trainer.evaluation.beyond_accuracy import BeyondAccuracy, TrainingFacts, training_facts
from trainer.evaluation.metrics import metrics_by_user
from trainer.evaluation.rating_errors import RatingErrors, RatingMeter, RatingTarget
from trainer.evaluation.tie_order import TieOrder
from trainer.evaluation.tied_ranking import rank_items
from trainer.evaluation.topk import ItemLists, hits
from trainer.model.retriever import TowerPair, as_of, candidate_vectors, query_vectors
from trainer.storage.attributes import Ragged

BAR_DELAY, LINE_INTERVAL = 2, 60
"""Seconds before a progress bar is shown; seconds between progress lines where there is no terminal."""


@dataclass(frozen=True)
class Protocol:
    """How a model is evaluated.

    Attributes:
        split: Split whose interactions are to be found, `test` or `validation`.
        seen: `mask` leaves items from before the split out of the ranking, `keep` ranks them too.
        ks: Lengths of the ranked lists.
        chunk: Users scored, and items looked up by a rank, at a time.
        sharded: Whether every rank ranks its own users; rank 0 computes the metrics in either case.
        seed: Seed of the random baseline.
        baselines: Names of the baselines to evaluate too.
        beyond: Whether to compute metrics beyond accuracy.
        per_user: Whether to return the metrics of every user.
        option_prefix: What the running command writes before its options of a protocol, for messages:
            `--evaluation.` for `train`, `--` for `evaluate`.
        target: What scores were fitted to, to compute the errors of ratings; None: they predict none.
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
    option_prefix: str = "--evaluation."
    target: RatingTarget | None = None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model and of baselines, and the protocol that gave them.

    Attributes:
        split: Split whose interactions were to be found.
        seen: `mask` or `keep`.
        users: Number of evaluated users.
        items: Number of items ranked for each.
        rankers: Mean of each metric over users, by ranker: `model`, then the baselines.
        beyond: Metrics beyond accuracy by ranker, if the protocol asks for them.
        per_user: The model's metrics, (users,) each in the order of user rows, if the protocol asks for them.
        rankers_per_user: The same of the model and of each baseline, by ranker.
        left_out: Number of items that are retained from an earlier run and therefore not ranked.
        tied: Number of users in whose list the model gives two items the same score.
        ratings: Errors of predicted values, if the protocol asks for them and there are values.
        seen_share: Share of the places of the model's longest lists that seen items take; 0 if masked.
        whole_lists: Number of users whose shortest list holds every item that may be in it.
    """

    split: str
    seen: str
    users: int
    items: int
    rankers: dict[str, dict[str, float]]
    beyond: dict[str, dict[str, float]] = field(default_factory=dict)
    per_user: dict[str, np.ndarray] = field(default_factory=dict)
    rankers_per_user: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    left_out: int = 0
    tied: int = 0
    ratings: RatingErrors | None = None
    seen_share: float = 0.0
    whole_lists: int = 0

    @property
    def mostly_tied(self) -> bool:
        """Whether most lists depend on how ties are broken, so that the figures are partly chance."""
        return 2 * self.tied > self.users


def evaluate(
    tower_pairs: Sequence[TowerPair], dataset: Dataset, world: World, protocol: Protocol
) -> Evaluation | None:
    """Evaluate towers on every user who has held-out items.

    Args:
        tower_pairs: Towers whose vectors are concatenated, the same on every rank and not wrapped for
            training.
        dataset: Interactions and catalogue.
        world: All ranks.
        protocol: How to evaluate.

    Returns:
        The evaluation on rank 0, None elsewhere.

    Raises:
        ConfigError: If there is no baseline of a name.
        DataError: If the split is empty, or the catalogue too large for a baseline.
        DivergedError: If scores are not finite.
    """
    held_out = dataset.held_out(protocol.split)
    seen = dataset.seen(protocol.split) if protocol.seen == "mask" else None
    users = evaluated_users(dataset, protocol)
    tower_pairs = as_of(tower_pairs, dataset, protocol.split)
    # Items retained from an earlier run are left out: no user can have held them out.
    order = TieOrder.of(dataset, world.device)
    items = _item_vectors(tower_pairs, dataset.evaluated_items, world, protocol, order)
    k = max(protocol.ks)
    names = protocol.baselines if world.is_first else ()
    rankers = {name: make_ranker(name, dataset, k, protocol.seed, protocol.split) for name in names}
    facts = _training_facts(dataset, users) if protocol.beyond and world.is_first else None
    errors = None
    if protocol.target and dataset.train.values is not None:
        errors = RatingMeter(dataset, protocol.split, protocol.target, world.device)
    meters: dict[str, _Meter] = {}
    tied = seen_places = 0
    for start in _with_progress(range(0, len(users), protocol.chunk), len(users), world.is_first):
        rows = users[start : start + protocol.chunk]
        ranked = _rank_chunk(tower_pairs, items, rows, seen, world, protocol, order, errors)
        if ranked is None:
            continue
        ranked, ties = ranked[:, :k], ranked[:, k]
        tied += int(ties.sum())
        exclude = _empty_lists(len(rows)) if seen is None else _item_lists(seen, rows)
        truth = _item_lists(held_out, rows)
        lists = {"model": ranked} | {name: ranker(rows, exclude) for name, ranker in rankers.items()}
        for name, ranking in lists.items():
            meters.setdefault(name, _Meter(protocol, facts)).add(ranking, truth, start)
        if seen is None:
            seen_places += int(hits(ranked, _item_lists(dataset.seen(protocol.split), rows)).sum())
    ratings = errors.total(world) if errors else None
    if not world.is_first:
        return None
    per_user = {name: meter.per_user() for name, meter in meters.items() if protocol.per_user}
    return Evaluation(
        split=protocol.split,
        seen=protocol.seen,
        users=len(users),
        items=dataset.evaluated_items,
        rankers={name: meter.means(len(users)) for name, meter in meters.items()},
        beyond={name: meter.beyond.means() for name, meter in meters.items() if meter.beyond},
        per_user=per_user.get("model", {}),
        rankers_per_user=per_user,
        left_out=dataset.item_count - dataset.evaluated_items,
        tied=tied,
        ratings=ratings,
        seen_share=seen_places / (len(users) * min(k, dataset.evaluated_items)),
        whole_lists=_whole_lists(users, seen, dataset.evaluated_items, min(protocol.ks)),
    )


def gathered_vectors(
    tower_pairs: Sequence[TowerPair],
    users: np.ndarray,
    item_count: int,
    world: World,
    protocol: Protocol,
    dataset: Dataset,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Gather query vectors of the users and candidate vectors of the catalogue on rank 0, on its CPU."""
    tower_pairs = as_of(tower_pairs, dataset, protocol.split)
    items = _item_vectors(tower_pairs, item_count, world, replace(protocol, sharded=False))
    query = world.gather_to_first(
        query_vectors(tower_pairs, users[world.share(len(users))], world.device), world.shares(len(users))
    )
    return None if query is None or items is None else (query.cpu(), items.cpu())


def evaluated_users(dataset: Dataset, protocol: Protocol) -> np.ndarray:
    """Return the rows of users with held-out items, after checking that the protocol fits the data.

    Raises:
        ConfigError: If there is no baseline of a name.
        DataError: If the split is empty, or the catalogue too large for a baseline.
    """
    users = np.flatnonzero(dataset.held_out(protocol.split).lengths())
    if not len(users):
        raise DataError(
            f"{dataset.name}: the {protocol.split} split holds no interactions. Evaluate another one with "
            f"{protocol.option_prefix}split, or train with --data.{protocol.split}_size 0.2, which cuts one"
        )
    check_baselines(protocol.baselines, dataset, protocol.option_prefix)
    return users


def _with_progress(starts: range, users: int, active: bool) -> Iterator[int]:
    """Yield each chunk's first user; show a bar on a terminal and else a line a minute, both on stderr."""
    begun = shown = time.monotonic()
    on_terminal = active and sys.stderr.isatty()
    with tqdm(
        total=users, desc="evaluating", unit="user", delay=BAR_DELAY, disable=not on_terminal, leave=False
    ) as bar:
        for start in starts:
            now = time.monotonic()
            if active and not on_terminal and now - shown >= LINE_INTERVAL:
                left = (now - begun) / start * (users - start)
                print(f"{start:,} of {users:,} users ranked, {left:,.0f} s left", file=sys.stderr, flush=True)
                shown = now
            yield start
            bar.update(min(starts.step, users - start))


class _Meter:
    """Accumulates the metrics of one ranker over chunks of users."""

    def __init__(self, protocol: Protocol, facts: TrainingFacts | None) -> None:
        self._protocol = protocol
        self._sums: dict[str, float] = {}
        self._values: dict[str, list[torch.Tensor]] = {}
        self.beyond = BeyondAccuracy(facts, protocol.ks) if facts else None

    def add(self, ranking: torch.Tensor, held_out: ItemLists, first: int) -> None:
        found = hits(ranking, held_out)
        for metric, values in metrics_by_user(found, held_out[0], self._protocol.ks).items():
            self._sums[metric] = self._sums.get(metric, 0.0) + float(values.sum())
            if self._protocol.per_user:
                self._values.setdefault(metric, []).append(values)
        if self.beyond:
            self.beyond.add(ranking, held_out, first)

    def means(self, users: int) -> dict[str, float]:
        return {metric: total / users for metric, total in self._sums.items()}

    def per_user(self) -> dict[str, np.ndarray]:
        return {metric: torch.cat(values).numpy() for metric, values in self._values.items()}


def _training_facts(dataset: Dataset, users: np.ndarray) -> TrainingFacts:
    item_counts = popularity_scores(torch.tensor(dataset.train.items), dataset.evaluated_items)
    return training_facts(item_counts, dataset.train_by_user().lengths(), users, dataset.item_features)


def _rank_chunk(
    tower_pairs: Sequence[TowerPair],
    items: torch.Tensor | None,
    rows: np.ndarray,
    seen: Ragged | None,
    world: World,
    protocol: Protocol,
    order: TieOrder,
    errors: RatingMeter | None,
) -> torch.Tensor | None:
    """Rank items for the users in `rows`; a rank that has users' vectors adds their errors to `errors`.

    Returns:
        (len(rows), k + 1) on rank 0, None elsewhere: k item rows, and 1 where two of their scores are equal.
    """
    k, counts, mine = max(protocol.ks), world.shares(len(rows)), rows[world.share(len(rows))]

    def rank(query: torch.Tensor, items: torch.Tensor, users: np.ndarray) -> torch.Tensor:
        exclude = None if seen is None else _item_lists(seen, users, world)
        found, tied = rank_items(query, items, k, users, exclude, order)
        return torch.cat([found, tied.long().unsqueeze(1)], 1)

    vectors = query_vectors(tower_pairs, mine, world.device)
    if protocol.sharded:
        assert items is not None
        ranked = rank(vectors, items, mine)
        if errors:
            errors.add(mine, vectors, items)
        return _to_cpu(world.gather_to_first(ranked, counts))
    gathered = world.gather_to_first(vectors, counts)
    if gathered is None or items is None:
        return None
    if errors:
        errors.add(rows, gathered, items)
    return rank(gathered, items, rows).cpu()


def _item_vectors(
    tower_pairs: Sequence[TowerPair],
    item_count: int,
    world: World,
    protocol: Protocol,
    order: TieOrder | None = None,
) -> torch.Tensor | None:
    """Gather the catalogue's candidate vectors, (items, D): on rank 0, or everywhere if `sharded`.

    With an `order` they stand by place, else by row.
    """
    matrix, gather = None, world.gather_rows if protocol.sharded else world.gather_to_first
    for start in range(0, item_count, protocol.chunk * world.size):
        rows = np.arange(start, min(start + protocol.chunk * world.size, item_count))
        vectors = candidate_vectors(tower_pairs, rows[world.share(len(rows))], world.device)
        gathered = gather(vectors, world.shares(len(rows)))
        if gathered is not None:
            matrix = gathered.new_empty(item_count, gathered.shape[1]) if matrix is None else matrix
            block = slice(rows[0], rows[-1] + 1)
            matrix[block if order is None else order.places[block]] = gathered
    return matrix


def _whole_lists(users: np.ndarray, seen: Ragged | None, item_count: int, k: int) -> int:
    """Count the users with at most k items to rank."""
    ranked = item_count - (np.zeros(len(users), int) if seen is None else seen.lengths()[users])
    return int(np.count_nonzero(ranked <= k))


def _item_lists(bags: Ragged, rows: np.ndarray, world: World | None = None) -> ItemLists:
    """Take the item lists of some users, on the world's device or else on the CPU."""
    lengths, values = bags.take(rows)
    device = world.device if world else torch.device("cpu")
    return torch.from_numpy(lengths).to(device), torch.from_numpy(values).to(device)


def _empty_lists(users: int) -> ItemLists:
    return torch.zeros(users, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)


def _to_cpu(rows: torch.Tensor | None) -> torch.Tensor | None:
    return None if rows is None else rows.cpu()
