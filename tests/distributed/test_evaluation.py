"""Evaluation and checkpoints at any world size, against an evaluation written out in numpy."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, shards, small_dataset, source_of, whole
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.evaluation.evaluator import Protocol, evaluate
from trainer.facts.baselines import BASELINES
from trainer.fitting.components import assemble
from trainer.fitting.loop import evaluate_model, fit, protocol
from trainer.model.retriever import CombinedTowers, candidate_vectors, query_vectors
from trainer.runs.checkpoint import load, save
from trainer.runs.checkpoint_store import newest
from trainer.runs.run_folder import describe_run, open_run, run_folder
from trainer.storage.tie_hashes import first_hashes, tie_hashes

pytestmark = pytest.mark.distributed

MODEL = (
    "--model.user_features group --model.item_features labels --model.hidden 8 "
    "--model.learn_temperature true --model.low_rank 8"
)


class Silent:
    def advance(self):
        pass

    def record(self, step, text, **figures):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run that four ranks trained: its folder, and the weights and scores that they had at the end."""
    run = tmp_path_factory.mktemp("runs") / "run"
    config = configured(MODEL, f"--run.dir {run} --evaluation.chunk 7")
    ranks = run_on_ranks(4, train_and_save, config, folder)
    return config, whole([parts for parts, _, _ in ranks]), ranks[0][1], ranks[0][2]


def train_and_save(world, config, folder):
    dataset = open_dataset(folder)
    run = world.on_first(lambda: run_folder(config))
    parts = assemble(config, dataset, world)
    world.on_first(lambda: describe_run(run, config, dataset, parts.plan, parts.tower_pairs))
    source = source_of(config, dataset, parts)
    fit(config, dataset, parts, source, world, Silent())
    save(run, config.run.epochs * source.steps_per_epoch, parts.model, world)
    return shards(parts.model), scores(parts, dataset, world), measured(config, dataset, parts, world)


def scores(parts, dataset, world):
    """(users, items) on every rank, from whole towers or sharded ones: each rank looks up its share."""
    with torch.no_grad():
        vectors = []
        for side, count in ((query_vectors, dataset.user_count), (candidate_vectors, dataset.item_count)):
            mine = np.arange(count)[world.share(count)] if world else np.arange(count)
            rows = side(parts.tower_pairs, mine, torch.device("cpu"))
            vectors.append(world.gather_rows(rows, world.shares(count)) if world else rows)
    return vectors[0] @ vectors[1].T


def measured(config, dataset, parts, world):
    """Figures of every protocol, each with rank 0 scoring and with all ranks scoring; None elsewhere."""
    figures = {}
    for seen in ("mask", "keep"):
        for sharded in (False, True):
            for chunk in (7, 4096):
                figures[seen, sharded, chunk] = evaluate(
                    parts.tower_pairs,
                    dataset,
                    world,
                    Protocol(
                        seen=seen, ks=(5, 10), sharded=sharded, chunk=chunk, baselines=BASELINES, beyond=True
                    ),
                )
    return figures if world.is_first else [value for value in figures.values() if value is not None]


def load_and_measure(world, config, folder):
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    checkpoint = newest(Path(config.run.dir)).folder
    load(checkpoint, parts.model)
    return shards(parts.model), scores(parts, dataset, world), measured(config, dataset, parts, world)


def plain_evaluation(scores, dataset, seen, k):
    """Every metric by loops over users and ranks."""
    train = list(zip(dataset.train.users.tolist(), dataset.train.items.tolist(), strict=True))
    test = list(zip(dataset.test.users.tolist(), dataset.test.items.tolist(), strict=True))
    per_user = []
    for user in sorted({user for user, _ in test}):
        wanted = {item for owner, item in test if owner == user}
        row = scores[user].copy()
        if seen == "mask":
            row[[item for owner, item in train if owner == user]] = -np.inf
        ranking = [item for item in np.argsort(-row, kind="stable") if row[item] > -np.inf][:k]
        hits = [item in wanted for item in ranking]
        found = [rank for rank, hit in enumerate(hits, start=1) if hit]
        ideal = sum(1 / np.log2(rank + 1) for rank in range(1, min(len(wanted), k) + 1))
        per_user.append(
            {
                "ndcg": sum(1 / np.log2(rank + 1) for rank in found) / ideal,
                "recall": len(found) / len(wanted),
                "precision": len(found) / k,
                "hit_rate": float(bool(found)),
                "mrr": 1 / found[0] if found else 0.0,
                "map": sum((n + 1) / rank for n, rank in enumerate(found)) / min(len(wanted), k),
            }
        )
    return {f"{name}@{k}": np.mean([user[name] for user in per_user]) for name in per_user[0]}


def test_figures_are_those_of_loops_over_the_whole_score_matrix(trained, folder):
    _, _, last_scores, figures = trained
    dataset = open_dataset(folder)
    for (seen, _, _), evaluation in figures.items():
        for k in (5, 10):
            expected = plain_evaluation(last_scores.numpy(), dataset, seen, k)
            found = {
                name: value for name, value in evaluation.rankers["model"].items() if name.endswith(f"@{k}")
            }
            assert found == pytest.approx(expected, abs=1e-9)
    # The training has learnt something, so that a ranking by chance would not pass for it.
    masked = figures["mask", False, 7].rankers
    assert masked["model"]["ndcg@10"] > 1.5 * masked["random"]["ndcg@10"]


@pytest.mark.parametrize(
    ("size", "sharding"),
    [(1, "table_wise"), (2, "table_wise"), (3, "column_wise"), (2, "data_parallel")],
)
def test_a_checkpoint_of_four_ranks_opens_at_any_world_size_and_sharding(size, sharding, trained, folder):
    config, weights, last_scores, figures = trained
    config = configured(MODEL, f"--run.dir {config.run.dir} --sharding.kind {sharding}")
    # Other initial weights: what is equal was loaded.
    config = replace(config, run=replace(config.run, seed=config.run.seed + 1))
    first, *others = run_on_ranks(size, load_and_measure, config, folder)
    torch.testing.assert_close(whole([first[0], *(rank[0] for rank in others)]), weights, rtol=0, atol=0)
    torch.testing.assert_close(first[1], last_scores, rtol=1e-5, atol=1e-5)
    for how, evaluation in first[2].items():
        assert evaluation.users == figures[how].users
        assert list(evaluation.rankers) == list(evaluation.beyond) == ["model", *BASELINES]
        for ranker in evaluation.rankers:
            assert evaluation.rankers[ranker] == pytest.approx(figures[how].rankers[ranker], abs=1e-9)
            assert evaluation.beyond[ranker] == pytest.approx(figures[how].beyond[ranker], abs=1e-9)
    assert [rank[2] for rank in others] == [[]] * len(others)  # only the first rank has figures


def test_chunks_and_sharded_scoring_change_no_figure(trained):
    _, _, _, figures = trained
    for seen in ("mask", "keep"):
        wanted = figures[seen, False, 4096].rankers["model"]
        for sharded in (False, True):
            for chunk in (7, 4096):
                assert figures[seen, sharded, chunk].rankers["model"] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_model_that_prefers_nothing_ranks_by_hash_at_any_world_size(size, folder):
    dataset = open_dataset(folder)
    # Scores that fall with the hash, from each user's first one on, give the same order without a tie.
    hashes = tie_hashes(dataset.item_ids) - first_hashes(dataset.user_ids)[:, None]
    by_hash = np.argsort(np.argsort(hashes, axis=1), axis=1)
    expected = plain_evaluation(-by_hash.astype(float), dataset, "mask", 10)
    for evaluation in run_on_ranks(size, evaluate_zeros, configured(), folder)[0]:
        assert evaluation.rankers["model"] == pytest.approx(expected, abs=1e-9)
        assert evaluation.tied == evaluation.users
        assert evaluation.mostly_tied


def evaluate_zeros(world, config, folder):
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    with torch.no_grad():
        for table in parts.model.state_dict().values():
            for shard in table.local_shards() if hasattr(table, "local_shards") else ():
                shard.tensor.zero_()
    protocols = [Protocol(sharded=sharded, chunk=7, baselines=()) for sharded in (False, True)]
    return [evaluate(parts.tower_pairs, dataset, world, each) for each in protocols]


def test_a_checkpoint_of_four_ranks_opens_whole_without_a_process_group(trained, folder):
    config, weights, last_scores, _ = trained
    run = open_run(Path(config.run.dir))
    state = CombinedTowers(*(part.towers for part in run.tower_pairs)).state_dict()
    torch.testing.assert_close(state, weights, rtol=0, atol=0)
    torch.testing.assert_close(scores(run, open_dataset(folder), None), last_scores, rtol=1e-5, atol=1e-5)


def test_the_loop_measures_the_validation_part_alone_while_it_trains(tmp_path):
    folder = small_dataset(tmp_path, validation_size=0.2)
    config = configured("--run.evaluate_every 1 --data.validation_size 0.2 --run.log_every 0")
    assert run_on_ranks(2, figures_of_fit, config, folder)[0] == ["loss", "validation"] * 2


def figures_of_fit(world, config, folder):
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    records = []

    class Names(Silent):
        def record(self, step, text, **figures):
            records.append("loss" if "loss" in figures else "validation")
            assert "loss" in figures or "validation/ndcg@5" in figures

    fit(config, dataset, parts, source_of(config, dataset, parts), world, Names())
    assert evaluate_model(parts, dataset, world, protocol(config, "validation")) is None or world.is_first
    return records


def test_popularity_is_counted_on_the_first_rank_where_baselines_are_wanted(folder):
    config = configured()
    assert run_on_ranks(2, times_counted, config, folder, ["popularity"]) == [1, 0]
    assert run_on_ranks(2, times_counted, config, folder, ["random"]) == [0, 0]


def times_counted(world, config, folder, baselines):
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    count = Dataset.item_popularity
    with mock.patch.object(Dataset, "item_popularity", autospec=True, side_effect=count) as counted:
        evaluate_model(parts, dataset, world, protocol(config, "test", baselines))
    return counted.call_count


def errors_of_ratings(world, config, folder):
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    found = evaluate_model(parts, dataset, world, protocol(config))
    return (found.ratings, found.seen_share) if found else None


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_errors_of_ratings_are_the_same_at_any_number_of_ranks(loss, folder):
    options = f"--loss.name {loss} --batches.rows interaction --evaluation.seen keep --evaluation.chunk 7"
    found = [
        run_on_ranks(size, errors_of_ratings, configured(options, f"--evaluation.sharded {sharded}"), folder)
        for size, sharded in ((1, False), (2, True), (4, False), (4, True))
    ]
    (expected, share), *others = [ranks[0] for ranks in found]
    assert expected.interactions == len(open_dataset(folder).test)
    assert expected.rmse > 0
    assert 0 < share < 1
    for errors, taken in others:
        assert vars(errors) == pytest.approx(vars(expected), rel=1e-4, abs=1e-5)
        assert taken == share
