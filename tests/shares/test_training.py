"""Trainings whose hosts share users: the same whatever the hosts, and whole in their run folder."""

import json
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.distributed.ranks import run_on_ranks
from tests.shares.hosts import configured, interactions, trained
from trainer.cli import main
from trainer.dataset.vocabulary import open_vocabulary
from trainer.distributed.world import join_world
from trainer.errors import ConfigError
from trainer.runs.checkpoint_store import newest
from trainer.shares.run_shares import shares_in_training
from trainer.storage.user_buckets import user_buckets
from trainer.training.run_evaluation import evaluate
from trainer.training.train import train

OPTIONS = (
    *("--data.split", "leave_last_out", "--data.validation_size", "0.1", "--run.patience", "0"),
    *("--model.dim", "8", "--batches.size", "16", "--run.epochs", "3", "--run.tensorboard", "false"),
    *("--run.evaluate_every", "1", "--run.save_every", "7", "--evaluation.k", "5"),
)
SAMPLED = ("--loss.candidates", "sampled", "--loss.samples", "8", "--optimizer.name", "rowwise_adagrad")


class BrokenOffError(Exception):
    """A training that ends in the middle."""


def break_off_after(steps):
    from trainer.fitting import loop

    taken, step = [], loop.train_step

    def counted(*arguments):
        taken.append(1)
        if len(taken) > steps:
            raise BrokenOffError
        return step(*arguments)

    return mock.patch("trainer.fitting.loop.train_step", counted)


def run(world, name, ranks_per_host, config, root):
    config = replace(config, run=replace(config.run, dir=str(root / name)))
    return trained(world, train, root / "cache", ranks_per_host, config)


def train_all(world, root, config):
    """One host of four ranks, two of two, and a training that breaks off and goes on on other hosts."""
    run(world, "one", 4, config, root)
    run(world, "two", 2, config, root)
    with break_off_after(9), pytest.raises(BrokenOffError):
        run(world, "broken", 2, config, root)
    run(world, "broken", 4, config, root)
    return trained(world, lambda config: evaluate(root / "two"), root / "cache", 2, config)


def train_on_both(world, root, config):
    for name, ranks_per_host in (("one", 4), ("two", 2)):
        run(world, name, ranks_per_host, config, root)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    table = interactions()
    pq.write_table(table, root / "plain.parquet")
    config = configured(*OPTIONS, "--data.interactions", str(root / "plain.parquet"))
    texts = run_on_ranks(4, train_all, root, config)
    return SimpleNamespace(root=root, table=table, evaluated=texts[0])


def report(run):
    return json.loads((run / "metrics.json").read_text())


def figures(run):
    """The figures of the test part, and of the validation part after every epoch."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    validated = [{key: record[key] for key in record if "@" in key} for record in records]
    found = report(run)
    return {ranker: found[ranker] for ranker in ("model", "popularity", "random")}, [*filter(None, validated)]


def test_two_hosts_train_and_measure_what_one_host_does_digit_by_digit(runs):
    assert figures(runs.root / "one") == figures(runs.root / "two")
    for name in ("users.arrow", "items.arrow", "by_user_known_values.npy", "by_user_test_offsets.npy"):
        one, two = (runs.root / hosts / "vocabulary" / name for hosts in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_candidates_that_are_drawn_are_the_same_on_two_hosts(tmp_path):
    pq.write_table(interactions(), tmp_path / "plain.parquet")
    config = configured(*OPTIONS, *SAMPLED, "--data.interactions", str(tmp_path / "plain.parquet"))
    run_on_ranks(4, train_on_both, tmp_path, config)
    assert figures(tmp_path / "one") == figures(tmp_path / "two")


def test_the_table_of_users_has_a_block_a_rank_that_holds_its_users(runs):
    plan = json.loads((runs.root / "two" / "plan.json").read_text())
    (shards,) = [table["shards"] for table in plan["tables"] if table["name"] == "user"]
    vocabulary = open_vocabulary(runs.root / "two")
    shares = user_buckets(vocabulary.user_ids, 4)
    block = int(np.bincount(shares).max()) + 1
    assert [(shard["rank"], shard["rows"]) for shard in shards] == [(rank, block) for rank in range(4)]
    rows = np.load(runs.root / "two" / "learned_user_inputs.npz")["user"]
    assert np.array_equal(rows[:-1] // block, shares)
    assert len(np.unique(rows)) == len(rows)
    assert rows[-1] == 4 * block - 1


def test_a_training_goes_on_at_the_same_ranks_on_other_hosts(runs):
    assert figures(runs.root / "broken") == figures(runs.root / "one")


def test_an_evaluation_by_ranks_gives_the_figures_of_the_training(runs):
    assert f"{report(runs.root / 'two')['model']['ndcg@5']:.4f}" in runs.evaluated


def test_one_process_evaluates_a_run_of_four_ranks(runs):
    found = json.loads(evaluate(runs.root / "two", as_json=True, beyond=True) or "")
    for ranker in ("model", "popularity", "random"):
        assert found[ranker] == pytest.approx(report(runs.root / "two")[ranker], abs=1e-9)
    assert found["beyond"]["model"]["coverage@5"] > 0


def test_a_user_is_recommended_nothing_that_they_had(runs, capsys):
    assert main(["recommend", str(runs.root / "two"), "--user", "u7", "--k", "40", "--json"]) == 0
    listed = {str(row["item"]) for row in json.loads(capsys.readouterr().out)["items"]}
    pairs = zip(runs.table["user_id"].to_pylist(), runs.table["item_id"].to_pylist(), strict=True)
    had = [str(item) for user, item in pairs if user == "u7"]
    items = set(map(str, open_vocabulary(runs.root / "two").item_ids.to_pylist()))
    assert listed == items - set(had)


def test_another_number_of_ranks_is_refused(runs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vocabulary").symlink_to(runs.root / "two" / "vocabulary")
    with join_world("cpu") as world, pytest.raises(ConfigError, match="Go on at 4 ranks, on any number of"):
        shares_in_training(tmp_path / "run", world)


def test_nothing_is_left_of_gathering_the_vocabulary(runs):
    assert not list((runs.root / "two").glob(".vocabulary*"))
    assert newest(runs.root / "two").step == report(runs.root / "two")["step"]
