"""Trainings from end to end in one process, on worlds whose right answer is known."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import worlds
from trainer.batching.tower_inputs import keyed_jagged, make_inputs
from trainer.cli import main
from trainer.config.parser import parse_config, read_config
from trainer.config.schema import Config
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import join_world
from trainer.errors import ConfigError
from trainer.fitting import loop
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.loop import fit
from trainer.fitting.step import make_loss, train_step
from trainer.model.losses import multi_positive_softmax
from trainer.reporting.progress import Progress
from trainer.runs import run_folder as runs
from trainer.runs.checkpoint_store import newest
from trainer.runs.run_folder import open_run, run_folder
from trainer.sharding.optimizers import schedule_factor
from trainer.training import train

TRAIN, WITHHELD = worlds.checkerboard()


def metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_all_that_its_readers_need(tmp_path: Path) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD))
    assert sorted(path.name for path in run.iterdir()) == [
        *("checkpoints", "config.yaml", "data.json", "learned_item_inputs.npz", "learned_user_inputs.npz"),
        *("metrics.json", "metrics.jsonl", "plan.json", "ranks.json", "settings.json", "vectors"),
        "vocabulary",
    ]
    # 16 users in steps of 4 for 20 epochs.
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000080"]
    config = read_config(run / "config.yaml")
    assert (config.run.epochs, config.model.dim, config.data.name) == (20, 8, "files")
    plan = json.loads((run / "plan.json").read_text())
    sizes = {table["name"]: (table["rows"], table["dim"]) for table in plan["tables"]}
    assert sizes == {"user": (17, 8), "item": (9, 8), "item_bias": (9, 4)}


def test_a_run_is_evaluated_beside_popularity_and_chance(tmp_path: Path) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), "--evaluation.k", "1,5")
    found = metrics(run)
    assert list(found)[:6] == ["run", "step", "split", "seen", "users", "items"]
    assert list(found)[6:] == ["model", "popularity", "random", "seconds"]
    assert (found["run"], found["step"], found["split"], found["seen"]) == (str(run), 80, "test", "mask")
    assert (found["users"], found["items"]) == (16, 8)
    assert sorted(found["seconds"]) == ["choose", "evaluate", "prepare", "train"]
    # Every user's one withheld item comes first. 5 items are left to each, so at 5 it is found by anyone.
    for metric in ("ndcg@1", "recall@1", "precision@1", "hit_rate@1", "ndcg@5", "mrr@5"):
        assert found["model"][metric] == 1, metric
    for ranker in ("model", "popularity", "random"):
        assert found[ranker]["recall@5"] == 1
        assert found[ranker]["precision@5"] == pytest.approx(1 / 5)
    assert found["popularity"]["ndcg@1"] < 1 > found["random"]["ndcg@1"]


def test_the_log_holds_falling_losses_and_the_rates_in_force(tmp_path: Path) -> None:
    options = ["--run.log_every", "1", "--optimizer.learning_rate", "0.2", "--optimizer.warmup", "0.25"]
    found = records(worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), *options))
    assert [record["step"] for record in found] == list(range(1, 81))
    assert [record["epoch"] for record in found[3::4]] == list(range(1, 21))
    expected = [0.2 * schedule_factor(step, 80, "linear", 0.25) for step in range(80)]
    assert [record["learning_rate"] for record in found] == pytest.approx(expected)
    losses = [record["loss"] for record in found]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) / 4


def test_an_epochs_record_is_the_mean_of_its_steps(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    options = worlds.options(tmp_path, TRAIN, WITHHELD)
    steps = records(worlds.trained(tmp_path / "one", *options, "--run.log_every", "1"))
    epochs = records(worlds.trained(tmp_path / "two", *options, "--run.log_every", "0"))
    means = np.array([record["loss"] for record in steps]).reshape(20, 4).mean(1)
    assert [record["loss"] for record in epochs] == pytest.approx(means.tolist(), rel=1e-5)
    assert [record["epoch"] for record in epochs] == list(range(1, 21))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    options = worlds.options(tmp_path, TRAIN, WITHHELD)
    found = []
    for name, seed in (("one", "1"), ("two", "1"), ("three", "2")):
        (tmp_path / name).mkdir()
        run = worlds.trained(tmp_path / name, *options, "--run.seed", seed, "--model.hidden", "8")
        found.append(open_run(run).tower_pairs[0].towers.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert not torch.equal(
        found[0]["query.embeddings.embedding_bags.user.weight"],
        found[2]["query.embeddings.embedding_bags.user.weight"],
    )


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ("--loss.candidates in_batch --loss.logq false", True),
        ("--loss.candidates in_batch", False),
        ("--loss.candidates sampled --loss.popularity_power 0.5 --loss.logq false", True),
        ("--loss.candidates sampled --loss.popularity_power 0.5", False),
        ("--loss.candidates sampled --loss.logq false", False),
    ],
)
def test_a_training_whose_candidates_are_not_corrected_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, warned: bool
) -> None:
    world = worlds.options(tmp_path, TRAIN, WITHHELD)
    worlds.trained(tmp_path, *world, "--run.epochs", "1", *options.split())
    text = " ".join(capsys.readouterr().out.split())
    assert ("popular items are pushed down" in text) == ("use --loss.logq true." in text) == warned


LEARNERS = {
    "catalogue": [],
    "in_batch": ["--loss.candidates", "in_batch"],
    "sampled": ["--loss.candidates", "sampled", "--loss.samples", "4"],
    "popularity sampled": [
        *("--loss.candidates", "sampled", "--loss.samples", "4", "--loss.popularity_power", "1")
    ],
    "interaction": ["--batches.rows", "interaction"],
    "interaction in_batch": ["--batches.rows", "interaction", "--loss.candidates", "in_batch"],
    "bpr": ["--batches.rows", "interaction", "--loss.name", "bpr"],
    "bpr sampled": [*("--batches.rows", "interaction", "--loss.name", "bpr", "--loss.candidates", "sampled")],
    "dot": ["--model.similarity", "dot", "--model.item_bias", "false", "--model.init_std", "0.3"],
    "dense layers": ["--model.hidden", "16", "--model.learn_temperature", "true"],
    "history alone": ["--model.history", "true", "--model.user_id", "false"],
    "history alone, interaction": [
        *("--model.history", "true", "--model.user_id", "false", "--batches.rows", "interaction"),
    ],
    "history alone, dense layers": [
        *("--model.history", "true", "--model.user_id", "false", "--model.hidden", "16"),
    ],
    "history beside the id": ["--model.history", "true"],
    "history and id side by side": ["--model.history", "true", "--model.combine", "concat"],
    "adagrad": ["--optimizer.name", "adagrad"],
    "sgd": ["--optimizer.name", "sgd", "--optimizer.learning_rate", "3"],
    "adam": ["--optimizer.name", "adam"],
    "column_wise": ["--sharding.kind", "column_wise"],
    "data_parallel": ["--sharding.kind", "data_parallel"],
}


@pytest.mark.parametrize("options", LEARNERS.values(), ids=LEARNERS)
def test_the_diagonal_of_the_checkerboard_is_learned(tmp_path: Path, options: list[str]) -> None:
    rates = ["--optimizer.learning_rate", "0.1", "--optimizer.table_learning_rates", "{item_bias: 0.005}"]
    run = worlds.trained(
        tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), "--evaluation.k", "1", *rates, *options
    )
    assert metrics(run)["model"]["recall@1"] == 1


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_losses_on_values_rank_what_is_liked_above_what_is_not(tmp_path: Path, loss: str) -> None:
    # Users rate their colour 5 and the other 1; one item of each colour is withheld, which is unseen then.
    pairs, values = list(TRAIN), [5.0] * len(TRAIN)
    for user in range(16):
        for item in range(1 - user % 2, 8, 2):
            if item != (user + 1) % 8:
                pairs.append((worlds.FIRST_USER + user, worlds.FIRST_ITEM + item))
                values.append(1.0)
    arguments = worlds.options(tmp_path, pairs, WITHHELD)
    pq.write_table(worlds.table(pairs, values), tmp_path / "interactions.parquet")
    pq.write_table(worlds.table(WITHHELD, [5.0] * 16), tmp_path / "held_out.parquet")
    run = worlds.trained(
        tmp_path,
        *arguments,
        *("--loss.name", loss, "--batches.rows", "interaction", "--model.similarity", "dot"),
        *("--model.popularity_prior", "0", "--evaluation.k", "1", "--optimizer.learning_rate", "0.1"),
    )
    assert metrics(run)["model"]["recall@1"] == 1
    assert records(run)[-1]["loss"] < records(run)[0]["loss"] / 4


def test_losses_on_values_need_values(capsys, tmp_path: Path) -> None:
    options = worlds.options(tmp_path, TRAIN, WITHHELD)
    assert main([*options, "--loss.name", "mse", "--batches.rows", "interaction", "--device", "cpu"]) == 2
    assert "--loss.name mse: files has no values" in capsys.readouterr().err


def test_a_second_training_in_the_same_folder_is_refused(capsys, tmp_path: Path) -> None:
    options = worlds.options(tmp_path, TRAIN, WITHHELD)
    run = worlds.trained(tmp_path, *options)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["train", *options, "--run.dir", str(run)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --run.dir {run}: holds a finished run")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_trainings_that_start_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.time, "strftime", lambda form: "20260102-030405")
    found = [run_folder(parse_config([])) for _ in range(3)]
    names = ["ml-100k-softmax-20260102-030405" + suffix for suffix in ("", "-2", "-3")]
    assert found == [Path("runs", name) for name in names]
    assert all(run.is_dir() for run in found)


def test_validation_figures_are_recorded_during_the_training(tmp_path: Path) -> None:
    run = worlds.trained(
        tmp_path,
        *worlds.options(tmp_path, TRAIN, WITHHELD),
        *("--data.validation_size", "0.2", "--run.evaluate_every", "5", "--evaluation.k", "3"),
    )
    measured = [record for record in records(run) if "validation/ndcg@3" in record]
    assert len(measured) == 4
    assert all(0 <= record["validation/recall@3"] <= 1 for record in measured)


def test_a_training_with_a_nan_loss_ends_at_the_next_record(tmp_path: Path, capsys) -> None:
    diverging = ["--optimizer.learning_rate", "1e30", "--model.similarity", "dot", "--optimizer.name", "sgd"]
    run = tmp_path / "run"
    data = worlds.options(tmp_path, TRAIN, WITHHELD)
    options = [*diverging, "--optimizer.table_learning_rates", "{}", "--run.log_every", "10"]
    assert main([*data, *worlds.QUICK, "--device", "cpu", "--run.dir", str(run), *options]) == 2
    # 4 steps an epoch.
    words = "weights of item, item_bias, user are NaN or infinite, expected a finite number; the model has"
    expected = f"error: step 5 (epoch 2, batch 1): the loss is NaN or infinite and {words} diverged."
    assert capsys.readouterr().err.startswith(expected)
    assert not (run / "checkpoints").exists()
    assert records(run) == []


def test_infinite_weights_are_not_saved(tmp_path: Path, monkeypatch, capsys) -> None:
    taken, step = [0], loop.train_step

    def spoiling(model, *arguments):
        taken[0] += 1
        loss = step(model, *arguments)
        if taken[0] == 7:
            (key,) = (key for key in model.state_dict() if "bags.item.weight" in key)
            model.state_dict()[key].local_shards()[0].tensor[-1, 0] = torch.inf  # of the row that none trains
        return loss

    monkeypatch.setattr(loop, "train_step", spoiling)
    options = [*worlds.options(tmp_path, TRAIN, WITHHELD), "--run.save_every", "5"]
    run = tmp_path / "run"
    assert main([*options, *worlds.QUICK, "--device", "cpu", "--run.dir", str(run)]) == 2
    words = "error: step 10 (epoch 3, batch 2): weights of item are NaN or infinite"
    assert capsys.readouterr().err.startswith(words)
    assert newest(run).step == 5


def test_speed_counts_the_time_of_steps_and_not_that_of_evaluations(tmp_path: Path, monkeypatch) -> None:
    # 16 users in steps of 4, recorded after 6 steps, that is, in the middle between two evaluations.
    options = ["--run.epochs", "3", "--run.log_every", "6", "--run.evaluate_every", "1"]
    config, dataset = started(tmp_path, *options, "--data.validation_size", "0.1")
    now = [0.0]
    monkeypatch.setattr(train.time, "perf_counter", lambda: now[0])

    def lasting(seconds: float, work):
        def timed(*arguments, **settings):
            now[0] += seconds
            return work(*arguments, **settings)

        return timed

    monkeypatch.setattr(loop, "train_step", lasting(1.0, loop.train_step))
    measured = SimpleNamespace(rankers={"model": {"ndcg@10": 0.5}})
    monkeypatch.setattr(loop, "evaluate_model", lasting(100.0, lambda *_, **__: measured))
    with join_world("cpu") as world:
        components = assemble(config, dataset, world)
        source = make_batches(config, dataset, components)
        with Progress(tmp_path, 0, active=True, tensorboard=False) as progress:
            fit(config, dataset, components, source, world, progress)
    interactions = [source.make(step).interactions for step in range(12)]
    expected = [sum(interactions[:6]) / 6, sum(interactions[6:]) / 6]
    losses = [record for record in records(tmp_path) if "loss" in record]
    validations = [record for record in records(tmp_path) if "validation/ndcg@10" in record]
    assert [record["examples_per_second"] for record in losses] == pytest.approx(expected)
    assert [record["training_seconds"] for record in validations] == pytest.approx([4, 8, 12])


def test_tensorboard_events_are_written_where_they_are_wanted(tmp_path: Path) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), "--run.tensorboard", "true")
    assert list((run / "tensorboard").glob("events*"))
    # 8 items of 8 dims and a bias.
    assert np.loadtxt(run / "tensorboard" / "items.tsv").shape == (8, 9)
    scalars = EventAccumulator(str(run / "tensorboard")).Reload()
    assert scalars.Scalars("test/ndcg@10")[0].value == pytest.approx(metrics(run)["model"]["ndcg@10"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--model.user_features", "age"],
            "--model.user_features age: no such attribute in files; it has none",
        ),
        (
            ["--optimizer.table_learning_rates", "{movie: 1}"],
            "--optimizer.table_learning_rates movie: no such table; this model has user, item, item_bias",
        ),
        (
            ["--optimizer.weight_decay", "0.1"],
            "--optimizer.weight_decay 0.1: a fused rowwise_adagrad has none",
        ),
        (["--optimizer.name", "adam", "--sharding.kind", "column_wise"], "--optimizer.name adam: not with"),
        (
            ["--optimizer.learning_rate", "1e38", "--model.similarity", "dot", "--optimizer.name", "sgd"],
            "the model has diverged",
        ),
    ],
)
def test_options_that_cannot_be_trained_are_refused_in_one_line(
    capsys, tmp_path: Path, options, words
) -> None:
    data = worlds.options(tmp_path, TRAIN, WITHHELD)
    arguments = [*data, *worlds.QUICK, "--device", "cpu", "--run.dir", str(tmp_path / "run"), *options]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    # A model that has diverged was no refusal: its training had begun, and has left records.
    assert (tmp_path / "run").exists() == ("diverged" in words)


def test_a_refused_training_leaves_a_folder_as_it_was(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = [*worlds.options(tmp_path, TRAIN, WITHHELD), *worlds.QUICK, "--device", "cpu"]
    refused = ["--model.user_features", "age"]
    (tmp_path / "unreadable.parquet").write_text("no Parquet")
    for options in (refused, ["--data.interactions", str(tmp_path / "unreadable.parquet")]):
        for place in ([], ["--run.dir", str(tmp_path / "new")]):
            assert main(["train", *data, *options, *place]) == 2
            assert not any((tmp_path / name).exists() for name in ("runs", "new"))
    run = tmp_path / "mine"
    run.mkdir()
    for names in ([], ["notes.txt"]):
        for name in names:
            (run / name).write_text("mine")
        assert main(["train", *data, *refused, "--run.dir", str(run)]) == 2
        assert [path.name for path in run.iterdir()] == names
    # The configuration of a run that was interrupted before it began is not changed by what is refused.
    assert main(["train", *data, "--run.dir", str(run)]) == 0
    for path in run.iterdir():
        if path.name not in ("config.yaml", "notes.txt"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = (run / "config.yaml").read_text()
    assert main(["train", "--run.dir", str(run), "--sharding.tables.film", "column_wise"]) == 2
    assert (run / "config.yaml").read_text() == before
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "notes.txt"]


def test_a_training_that_was_interrupted_before_its_first_step_goes_on_with_its_own_data(
    capsys, tmp_path: Path, monkeypatch
) -> None:
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    data = [*worlds.options(tmp_path, TRAIN, WITHHELD), *worlds.QUICK, "--device", "cpu"]
    relative = [option.removeprefix(f"{tmp_path}/") for option in data]
    with monkeypatch.context() as patch:
        patch.setattr(train, "assemble", interrupt)
        assert main(["train", *relative, "--run.dir", "a run"]) == 130
    assert capsys.readouterr().err == ("interrupted. Go on with: python -m trainer train --run.dir 'a run'\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--run.dir", str(tmp_path / "a run")]) == 0
    assert "files: 16 users, 8 items" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--run.epochs", "1"], ["--sharding.kind", "column_wise"]])
def test_a_folder_without_a_run_is_no_run_to_resume(more, capsys, tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("user_id,item_id\n1,2\n")
    assert main(["train", "--run.dir", str(tmp_path), *more]) == 2
    assert capsys.readouterr().err == (
        f"error: --run.dir {tmp_path}: holds orders.csv but no config.yaml, so that there is no run to "
        "resume. Name the run folder, or give the options of a new training and another folder\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["orders.csv"]


@pytest.mark.parametrize("state", ["absent", "empty"])
def test_an_absent_or_empty_folder_takes_the_default_training(state, tmp_path: Path, monkeypatch) -> None:
    run, asked = tmp_path / "run", []
    if state == "empty":
        run.mkdir()
    monkeypatch.setattr(train, "train", asked.append)
    assert main(["train", "--run.dir", str(run)]) == 0
    assert [config.data.name for config in asked] == ["ml-100k"]


ATTRIBUTES = pa.table(
    {"item_id": [51, 52], "genre.main": ["a", "b"], "bias": ["a", "b"], "genres": [["a"], []]}
)


def test_item_attributes_train_and_names_that_tables_cannot_have_are_refused(capsys, tmp_path: Path) -> None:
    pq.write_table(ATTRIBUTES, tmp_path / "items.parquet")
    data = [*worlds.options(tmp_path, TRAIN, WITHHELD), "--data.items", str(tmp_path / "items.parquet")]
    run = worlds.trained(tmp_path, *data, "--model.item_features", "genres")
    assert metrics(run)["model"]["ndcg@10"] > metrics(run)["random"]["ndcg@10"]
    for name in ("genre.main", "bias"):
        arguments = [*data, "--run.dir", str(tmp_path / name), "--model.item_features", name]
        assert main([*arguments, "--device", "cpu"]) == 2
        assert f"--model.item_features {name}: cannot name a table" in capsys.readouterr().err


@pytest.mark.parametrize(("side", "name"), [("user", "history"), ("user", "low_rank"), ("item", "low_rank")])
def test_an_attribute_may_not_name_a_table_that_exists(tmp_path: Path, side: str, name: str) -> None:
    column = pa.table(
        {f"{side}_id": [worlds.FIRST_USER if side == "user" else worlds.FIRST_ITEM], name: ["a"]}
    )
    dataset = worlds.dataset(tmp_path / "cache", TRAIN, WITHHELD, **{f"{side}s": column})
    with pytest.raises(
        ConfigError, match=f"--model.{side}_features {name}: cannot name a table .*`low_rank`"
    ):
        make_inputs(parse_config([f"--model.{side}_features", name]), dataset)


def test_a_run_whose_data_have_changed_is_not_evaluated(capsys, tmp_path: Path) -> None:
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD))
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    # The same users, items and counts in another order: every row of every table would mean someone else.
    worlds.options(tmp_path, TRAIN[::-1], WITHHELD)
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    assert f"{run}: its data have changed since the training" in capsys.readouterr().err


def started(tmp_path: Path, *options: str) -> tuple[Config, Dataset]:
    """A configuration and a data set in which user 7 has a test item alone."""
    dataset = worlds.dataset(tmp_path / "cache", TRAIN, [*WITHHELD, (7, 51)])
    return worlds.configured(dataset, *worlds.QUICK, "--run.dir", str(tmp_path), *options), dataset


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--optimizer.name", "adam"],
        ["--optimizer.name", "adam", "--optimizer.weight_decay", "0.1"],
        ["--batches.rows", "interaction", "--loss.candidates", "in_batch"],
    ],
)
def test_the_unknown_users_row_is_zero_before_and_after_the_training(tmp_path: Path, options) -> None:
    config, dataset = started(tmp_path, *options)
    with join_world("cpu") as world:
        components = assemble(config, dataset, world)
        (key,) = (key for key in components.model.state_dict() if "bags.user.weight" in key)

        def unknown() -> list[float]:
            return components.model.state_dict()[key].local_shards()[0].tensor[dataset.user_count].tolist()

        assert dataset.user_count == 17
        assert unknown() == [0] * 8
        source = make_batches(config, dataset, components)
        with Progress(tmp_path, 0, active=False, tensorboard=False) as progress:
            fit(config, dataset, components, source, world, progress)
        assert unknown() == [0] * 8


def test_a_user_without_training_interactions_has_no_direction(tmp_path: Path) -> None:
    # User 7 has a test item alone and is the only one of their age; the unknown user has no age.
    ids = [1001 + number for number in range(16)]
    ages = pa.table({"user_id": [*ids, 7], "age": [number % 3 for number in range(16)] + [9]})
    dataset = worlds.dataset(tmp_path / "cache", TRAIN, [*WITHHELD, (7, 51)], users=ages)
    config = worlds.configured(dataset, *worlds.QUICK, "--model.user_features", "age")
    with join_world("cpu") as world:
        components = assemble(config, dataset, world)
        users = keyed_jagged(
            components.user_inputs, np.array([dataset.user_row(7), dataset.user_count, 0, 1])
        )
        alone, unknown, one, other = components.towers.queries(users).detach()
    # A zero vector and the one that a bias is multiplied by: such users are ranked for by bias alone.
    assert alone.tolist() == unknown.tolist() == [0] * 8 + [1]
    assert [float(vector[:8].norm()) for vector in (one, other)] == pytest.approx([1, 1])


def test_the_very_first_step_is_taken_at_its_warm_up_rate(tmp_path: Path) -> None:
    options = ["--optimizer.name", "adagrad", "--optimizer.warmup", "1", "--batches.size", "16"]
    config, dataset = started(tmp_path, *options, "--run.epochs", "1", "--optimizer.learning_rate", "0.5")
    with join_world("cpu") as world:
        components = assemble(config, dataset, world)
        weights = (
            components.model.state_dict()["learned.query.embeddings.embedding_bags.user.weight"]
            .local_shards()[0]
            .tensor
        )
        before = weights.clone()
        source = make_batches(config, dataset, components)
        with Progress(tmp_path, 0, active=False, tensorboard=False) as progress:
            fit(config, dataset, components, source, world, progress)
        moved = (weights - before)[:16].abs()
    # Adagrad's first step moves every cell by the rate: 1 / (1 + 1) of 0.5 in the only, warming step.
    assert moved.flatten().tolist() == pytest.approx([0.25] * 16 * 8, rel=1e-3)


def test_a_step_weighs_its_rows_and_returns_the_sum_of_their_losses(tmp_path: Path) -> None:
    config, dataset = started(tmp_path, "--loss.user_weight_power", "1")
    with join_world("cpu") as world:
        components = assemble(config, dataset, world)
        batch = make_batches(config, dataset, components).make(0)
        batch = replace(batch, weights=torch.tensor([0.0, 3.0, 0.0, 0.5]))
        with torch.no_grad():
            query, candidates = components.model(batch.queries, batch.candidates)
        losses = multi_positive_softmax(query, candidates, batch.positives, batch.seen)
        before, users = query.clone(), batch.queries["user"].values()
        found = train_step(
            components.model, components.optimizer, batch, make_loss(config.loss, world), world
        )
        after = components.towers.queries(batch.queries)
    assert float(found) == pytest.approx(float(3 * losses[1] + 0.5 * losses[3]), rel=1e-5)
    assert len(set(users.tolist())) == 4
    assert (after != before).any(1).tolist() == [False, True, False, True]


def test_a_value_at_the_threshold_is_liked() -> None:
    config = parse_config(["--loss.name", "bce", "--batches.rows", "interaction"])
    vectors = torch.ones(3, 1)
    batch = SimpleNamespace(values=torch.tensor([5.0, 4.0, 3.5]), candidate_counts=[])
    # A score of 1 costs log(1 + e^-1) where the item is liked and log(1 + e) where it is not.
    liked, disliked = np.log1p(np.exp(-1)), np.log1p(np.exp(1))
    with join_world("cpu") as world:
        found = make_loss(config.loss, world)(vectors, vectors, batch)
    assert found.tolist() == pytest.approx([liked, liked, disliked])


def test_biases_start_at_the_centred_log_popularity(tmp_path: Path) -> None:
    pairs = [(user, item) for item, count in enumerate([8, 4, 1]) for user in range(count)]
    dataset = worlds.dataset(tmp_path / "cache", pairs, [(0, 3)])
    config = worlds.configured(dataset, *worlds.QUICK, "--model.popularity_prior", "0.5")
    with join_world("cpu") as world:
        state = assemble(config, dataset, world).model.state_dict()
        bias = (
            state["learned.candidate.embeddings.embedding_bags.item_bias.weight"]
            .local_shards()[0]
            .tensor.clone()
        )
    # Item 3 has no training interaction and counts as half a one, as does the row that such items look up.
    logarithm = np.log([8, 4, 1, 0.5, 0.5])
    expected = 0.5 * (logarithm - logarithm[:4].mean())
    assert bias.mean(1).tolist() == pytest.approx(expected.tolist())


def test_an_attribute_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    users = pa.table({"user_id": [1001], "age": ["old"], "town": ["here"]})
    dataset = worlds.dataset(tmp_path / "cache", TRAIN, WITHHELD, users=users)
    config = parse_config(["--model.user_features", "aeg"])
    with pytest.raises(
        ConfigError, match=r"--model\.user_features aeg: no such attribute in world; it has age, town"
    ):
        make_inputs(config, dataset)
