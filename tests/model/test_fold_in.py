"""Query vectors by history alone: against a search of the whole circle, and against trained users."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional

from tests import worlds
from trainer.evaluation.metrics import metrics_by_user
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.model import fold_in as folding
from trainer.model.fold_in import fold_in
from trainer.model.losses import multi_positive_softmax
from trainer.model.retriever import candidate_vectors, query_from_history, query_vectors
from trainer.runs.run_folder import open_run
from trainer.sources.synthetic import synthesise
from trainer.storage.attributes import Ragged

CPU = torch.device("cpu")


def as_lists(own: list[list[int]]) -> ItemLists:
    return torch.tensor([len(each) for each in own]), torch.tensor(
        [item for each in own for item in each], dtype=torch.int64
    )


def catalogue(items: int, dim: int, bias: bool = True) -> torch.Tensor:
    """Unit vectors divided by a temperature of 0.2, and biases."""
    generator = torch.Generator().manual_seed(3)
    vectors = 5 * torch.nn.functional.normalize(torch.randn(items, dim, generator=generator), dim=1)
    return torch.cat([vectors, torch.randn(items, 1, generator=generator)], 1) if bias else vectors


def as_bags(own: list[list[int]]) -> Ragged:
    return Ragged(np.cumsum([0, *map(len, own)]), np.array([item for each in own for item in each], np.int32))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("history", [[3], [0, 7], [1, 2, 4, 8, 11]])
def test_a_unit_vector_is_the_best_of_the_whole_circle(history: list[int], bias: bool) -> None:
    candidates = catalogue(12, 2, bias).numpy()
    found = fold_in(as_bags([history]), candidates, unit=True, bias=bias)[0]
    angles = np.linspace(0, 2 * np.pi, 100_000)
    points = np.stack([np.cos(angles), np.sin(angles), np.ones_like(angles)][: 2 + bias])
    scores = candidates.astype(np.float64) @ points
    others = np.exp(np.delete(scores, history, axis=0)).sum(0)
    # A positive against all items that are not in the history: -log(p / (p + others)).
    losses = np.mean([np.log1p(others / np.exp(scores[item])) for item in history], axis=0)
    np.testing.assert_allclose(found, points[:, losses.argmin()], atol=0.01)


OWN = [[4, 9], [], [1, 2, 3, 20, 29], [9], []]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_vectors_are_those_of_adam_on_the_loss_of_the_training(unit: bool, bias: bool) -> None:
    candidates, width = catalogue(30, 8, bias), 8
    for history, found in zip(OWN, fold_in(as_bags(OWN), candidates.numpy(), unit, bias), strict=True):
        if history:
            free = functional.normalize(candidates[history, :width].sum(0), dim=0).requires_grad_()
            optimizer = torch.optim.Adam([free])
            positives = torch.tensor([[0] * len(history), history])
            for step in range(100):
                optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 100)
                optimizer.zero_grad()
                query = with_bias(functional.normalize(free, dim=0) if unit else free, bias)
                multi_positive_softmax(query, candidates, positives, positives).sum().backward()
                optimizer.step()
            expected = with_bias(functional.normalize(free, dim=0) if unit else free, bias)[0].detach()
            np.testing.assert_allclose(found, expected, atol=1e-4)


def with_bias(vector: torch.Tensor, bias: bool) -> torch.Tensor:
    return functional.pad(vector, (0, 1), value=1.0)[None] if bias else vector[None]


def test_without_unit_vectors_the_length_is_fitted_too() -> None:
    candidates, histories = catalogue(12, 2), as_bags([[0, 7]])
    positives = torch.tensor([[0, 0], [0, 7]])
    unit, free = (
        torch.from_numpy(fold_in(histories, candidates.numpy(), unit, bias=True)) for unit in (True, False)
    )
    losses = [multi_positive_softmax(each, candidates, positives, positives) for each in (unit, free)]
    assert unit[0, :2].norm() == pytest.approx(1, abs=1e-6)
    assert losses[1] < 0.9 * losses[0]


def test_nobody_depends_on_who_else_is_folded_in(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = catalogue(30, 8).numpy()
    together = fold_in(as_bags(OWN), candidates, unit=True, bias=True)
    alone = [fold_in(as_bags([each]), candidates, unit=True, bias=True) for each in OWN]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)
    monkeypatch.setattr(folding, "SCORES", 60)  # two people at a time
    in_blocks = fold_in(as_bags(OWN), candidates, unit=True, bias=True)
    np.testing.assert_allclose(together, in_blocks, atol=1e-4)


@pytest.mark.parametrize("unit", [True, False])
def test_single_and_double_precision_find_the_same(unit: bool) -> None:
    candidates = catalogue(30, 8).numpy()
    single = fold_in(as_bags(OWN), candidates, unit, bias=True)
    double = fold_in(as_bags(OWN), candidates.astype(np.float64), unit, bias=True)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, double, atol=1e-4)


def test_an_empty_history_leaves_the_bias_alone() -> None:
    candidates = catalogue(5, 3).numpy()
    assert fold_in(as_bags([[]]), candidates, unit=True, bias=True).tolist() == [[0, 0, 0, 1]]


def test_a_history_of_the_whole_catalogue_has_a_vector_too() -> None:
    with np.errstate(all="raise", under="ignore"):
        found = fold_in(as_bags([list(range(5))]), catalogue(5, 3).numpy(), unit=True, bias=True)
    assert np.isfinite(found).all()


def test_items_stay_as_they_are() -> None:
    candidates = catalogue(12, 4).numpy()
    candidates.flags.writeable = False  # as those are that come from a file
    assert np.isfinite(fold_in(as_bags([[1, 2]]), candidates, unit=True, bias=True)).all()


def test_closed_form_dims_are_those_of_a_user_with_the_same_history(tmp_path: Path) -> None:
    world = worlds.options(tmp_path, *worlds.checkerboard())
    run = open_run(worlds.trained(tmp_path, *world, "--model.low_rank", "8"))
    users, vectors = np.arange(15, -1, -1), candidate_vectors(run.tower_pairs, np.arange(8), CPU)
    lengths, items = (torch.from_numpy(each) for each in run.vocabulary.seen.take(users))
    found = query_from_history(run.tower_pairs, (lengths, items), vectors)
    learned = run.tower_pairs[0].towers.output_dim
    expected = query_vectors(run.tower_pairs, users, CPU)
    assert found.shape == expected.shape == (16, learned + 8)
    assert expected[:, learned:].any()
    assert torch.equal(found[:, learned:], expected[:, learned:])


NEW = slice(4, None, 5)
"""Every fifth user is somebody new."""


@pytest.fixture(scope="module")
def pairs() -> tuple[worlds.Pairs, worlds.Pairs]:
    """Training and held-out pairs of synthetic data: so many of an item that a fifth of them is no loss."""
    columns = pa.Table.from_batches(list(synthesise(1000, 250, 40_000, seed=0).interactions))
    both = dict.fromkeys(zip(columns["user_id"].to_pylist(), columns["item_id"].to_pylist(), strict=True))
    shuffled = np.random.default_rng(0).permutation(list(both)).tolist()
    return shuffled[len(both) // 5 :], shuffled[: len(both) // 5]


class Measured:
    """A training with or without the users who are new, and the NDCG@10 of those by different queries."""

    def __init__(self, folder: Path, pairs: tuple[worlds.Pairs, worlds.Pairs], with_new: bool) -> None:
        self.new = sorted({user for user, _ in pairs[1]})[NEW]
        kept = [[pair for pair in part if with_new or pair[0] not in set(self.new)] for part in pairs]
        settings = [
            "--model.dim",
            "32",
            "--batches.size",
            "64",
            "--run.epochs",
            "20",
            "--run.choose",
            "false",
        ]
        self.run = open_run(worlds.trained(folder, *worlds.options(folder, *kept), *settings))
        self.rows = {item: row for row, item in enumerate(self.run.vocabulary.item_ids.to_pylist())}
        self.vectors = candidate_vectors(self.run.tower_pairs, np.arange(len(self.rows)), CPU)
        self.histories, self.held_out = (self._lists(part) for part in pairs)

    def _lists(self, part: worlds.Pairs) -> ItemLists:
        own: dict[int | str, list[int]] = {user: [] for user in self.new}
        for user, item in part:
            if user in own and item in self.rows:
                own[user].append(self.rows[item])
        return as_lists(list(own.values()))

    def trained(self) -> float:
        users = [self.run.vocabulary.user_row(user) for user in self.new]
        return self._ndcg(query_vectors(self.run.tower_pairs, np.array(users), CPU))

    def folded_in(self) -> float:
        return self._ndcg(query_from_history(self.run.tower_pairs, self.histories, self.vectors))

    def _ndcg(self, queries: torch.Tensor) -> float:
        _, ranking = top_k(queries, self.vectors, 10, self.histories)
        found = metrics_by_user(hits(ranking, self.held_out), self.held_out[0], [10])
        return float(found["ndcg@10"].mean())


def test_someone_new_is_served_as_well_as_a_trained_user(tmp_path: Path, pairs) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    with_new = Measured(tmp_path / "with", pairs, with_new=True)
    without = Measured(tmp_path / "without", pairs, with_new=False)
    assert not {*without.new} & {*without.run.vocabulary.user_ids.to_pylist()}
    trained = with_new.trained()
    assert trained > 0.3  # there was something to learn
    assert with_new.folded_in() >= 0.98 * trained  # among items that were trained beside them
    assert without.folded_in() >= 0.97 * trained  # among items that never met them


@pytest.mark.parametrize("attributes", [[], ["--model.user_features", "colour"]])
def test_a_tower_of_histories_looks_them_up_as_it_does_for_its_users(tmp_path: Path, attributes) -> None:
    train, withheld = worlds.checkerboard()
    options = worlds.options(tmp_path, train, withheld)
    users = pa.table({"user_id": [1001, 1002], "colour": ["black", "white"]})
    pq.write_table(users, tmp_path / "users.parquet")
    options += ["--data.users", str(tmp_path / "users.parquet"), "--model.user_id", "false", *attributes]
    trained = open_run(worlds.trained(tmp_path, *options, "--model.history", "true"))
    items = candidate_vectors(trained.tower_pairs, np.arange(8), CPU)
    # All but the first two users have no colour either.
    rows = np.arange(2, 16)
    lengths, histories = (torch.from_numpy(column) for column in trained.vocabulary.seen.take(rows))
    found = query_from_history(trained.tower_pairs, (lengths, histories), items)
    torch.testing.assert_close(found, query_vectors(trained.tower_pairs, rows, CPU))


def test_a_tower_of_ids_and_histories_goes_by_the_history_of_someone_new(tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, train, withheld), "--model.history", "true")
    trained = open_run(run)
    items = candidate_vectors(trained.tower_pairs, np.arange(8), CPU)
    found = query_from_history(trained.tower_pairs, as_lists([[0, 2], []]), items)
    tables = trained.tower_pairs[0].towers.query.embeddings.embedding_bags["user_history"].weight
    expected = torch.nn.functional.normalize(tables[[0, 2]].sum(0), dim=0)
    torch.testing.assert_close(found[0, :-1], expected)
    assert found[1].tolist() == [0] * 8 + [1]
