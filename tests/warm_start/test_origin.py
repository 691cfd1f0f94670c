"""Trainings that start from an earlier run, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchrec.optim.keyed import CombinedOptimizer

from tests import worlds
from trainer.cli import main
from trainer.runs.checkpoint import entries, read_entry
from trainer.runs.checkpoint_store import digest_of, newest
from trainer.runs.run_folder import open_run, run_config
from trainer.training import train

TRAIN, WITHHELD = worlds.checkerboard(16, 8)
GROWN, GROWN_WITHHELD = worlds.checkerboard(24, 12)
REMOVED_USER, REMOVED_ITEM = 1001, 52
"""Of two colours: the user's items stay, but for the one that is gone anyway."""
ADAM = ("--optimizer.name", "adam", "--optimizer.learning_rate", "0.05", "--run.save_every", "1000")


def without_removed(pairs: worlds.Pairs) -> worlds.Pairs:
    return [(user, item) for user, item in pairs if user != REMOVED_USER and item != REMOVED_ITEM]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 16 users and 8 items that keeps its optimizer's states."""
    folder = tmp_path_factory.mktemp("origin")
    return worlds.trained(folder, *ADAM, *worlds.options(folder, TRAIN, WITHHELD))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for 24 users and 12 items, of which one of each of the first is gone."""
    folder = tmp_path_factory.mktemp("grown")
    return worlds.options(folder, without_removed(GROWN), without_removed(GROWN_WITHHELD))


def begin_with(origin: Path, run: Path, *options: str) -> Path:
    assert main(["train", "--from", str(origin), "--run.dir", str(run), *options]) == 0
    return run


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def vector(run: Path, side: str, raw_id: int) -> torch.Tensor:
    trained = open_run(run)
    table, tower, row = (
        ("user", "query", trained.vocabulary.user_row(raw_id))
        if side == "user"
        else ("item", "candidate", trained.vocabulary.item_row(raw_id))
    )
    return read_entry(newest(run).folder, f"learned.{tower}.embeddings.embedding_bags.{table}.weight")[row]


def test_counts_of_matched_ids_are_printed_and_reported(origin, grown, tmp_path, capsys):
    run = begin_with(origin, tmp_path / "run", *grown, "--run.epochs", "1")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"From {origin}: 15 of 16 users known, 8 new, 1 dropped; 7 of 8 items known, 4 new, 1 dropped" in (
        printed
    )
    assert "optimizer states taken over." in printed
    assert report(run)["from"]["users"] == {"known": 15, "new": 8, "dropped": 1, "kept": 0}


def test_the_earlier_configuration_holds_but_for_its_folder(origin, grown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--from", str(origin), *grown, "--run.epochs", "1", "--run.seed", "7"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    then, now = run_config(origin), run_config(run)
    assert (now.model, now.batches, now.optimizer) == (then.model, then.batches, then.optimizer)
    assert (now.run.epochs, now.run.seed, now.run.origin) == (1, 7, str(origin))


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_two_epochs_are_worth_more_than_two_of_a_fresh_training(optimizer, grown, tmp_path):
    data = worlds.options(tmp_path, TRAIN, WITHHELD)
    known = worlds.trained(tmp_path, *data, "--optimizer.name", optimizer)
    short = ("--run.epochs", "2", "--optimizer.name", optimizer)
    again = begin_with(known, tmp_path / "again", *grown, *short)
    fresh = worlds.trained(tmp_path / "fresh", *grown, *short)
    assert report(again)["model"]["ndcg@10"] > report(fresh)["model"]["ndcg@10"]
    assert not report(again)["from"]["states"]
    assert report(again)["from"]["why_not"] == f"the last checkpoint of {known} keeps none"


def test_adam_starts_with_the_step_of_the_moments_that_it_takes_over(origin, grown, tmp_path, monkeypatch):
    begun = []

    def watched(config, dataset, components, *arguments, **options):
        begun.extend(steps_of(components.optimizer))
        return fit(config, dataset, components, *arguments, **options)

    fit = train.fit
    monkeypatch.setattr(train, "fit", watched)
    short = ("--run.epochs", "1")
    run = begin_with(origin, tmp_path / "run", *grown, *short)
    assert begun == [80, 80, 80]  # user, item, item_bias
    # 16 users in steps of 4, 20 times, and then 23 once.
    assert newest(run).progress.origin_steps == 80
    assert report(run)["from"]["steps"] == 80
    begun.clear()
    begin_with(run, tmp_path / "again", *grown, *short)
    assert begun == [86, 86, 86]
    begun.clear()
    fresh = begin_with(origin, tmp_path / "fresh", *grown, *short, "--optimizer.name", "rowwise_adagrad")
    assert report(fresh)["from"]["steps"] == newest(fresh).progress.origin_steps == 0


def steps_of(optimizer: CombinedOptimizer) -> list[float]:
    """Step of every parameter with an optimizer that counts them."""
    return [
        float(state["step"])
        for _, keyed in optimizer.optimizers
        for state in keyed.state.values()
        if "step" in state
    ]


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"])
def test_a_training_that_crashed_ends_with_the_weights_of_one_that_did_not(optimizer, grown, tmp_path):
    data = worlds.options(tmp_path, TRAIN, WITHHELD)
    model = ("--optimizer.name", optimizer, "--model.hidden", "8", "--run.save_every", "9")
    known = worlds.trained(tmp_path, *data, *model, "--run.epochs", "5")
    run = begin_with(known, tmp_path / "again", *grown, "--run.epochs", "4", "--run.keep_last", "9")
    assert newest(run).progress.origin_steps == 20
    whole = state_of(run)
    shutil.rmtree(newest(run).folder)
    (run / "metrics.json").unlink()
    assert newest(run).step == 18
    assert main(["train", "--run.dir", str(run)]) == 0
    again = state_of(run)
    assert again.keys() == whole.keys()
    assert any(key.startswith("optimizer.") and "dense" in key for key in whole)
    for key, values in whole.items():
        assert torch.equal(again[key], values), key


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer's states of a run's newest checkpoint."""
    checkpoint = newest(run).folder
    return {key: read_entry(checkpoint, key) for key in entries(checkpoint)}


def test_a_checkpoint_from_before_steps_were_taken_over_still_opens(origin, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(origin, run)
    state = newest(run).folder / "state.json"
    description = json.loads(state.read_text())
    del description["own_sha256"], description["origin_steps"]
    state.write_text(json.dumps(description | {"own_sha256": digest_of(description)}))
    assert (newest(run).step, newest(run).progress.origin_steps) == (80, 0)


def test_another_optimizer_starts_with_the_weights_alone_and_says_so(origin, grown, tmp_path, capsys):
    options = ("--run.epochs", "1", "--optimizer.name", "sgd")
    begin_with(origin, tmp_path / "run", *grown, *options)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"optimizer states from zero: {origin} was trained with adam." in printed


def test_a_removed_user_is_unknown(origin, grown, tmp_path, capsys):
    dropped = begin_with(origin, tmp_path / "dropped", *grown, "--run.epochs", "1")
    assert f"--user {REMOVED_USER}: not among" in refusal(
        capsys, "recommend", str(dropped), "--user", str(REMOVED_USER)
    )


def test_retained_ids_are_served_as_before_though_the_earlier_run_is_gone(origin, grown, tmp_path, capsys):
    earlier = tmp_path / "earlier"
    shutil.copytree(origin, earlier)
    options = ("--run.removed", "keep", "--optimizer.learning_rate", "0.01", "--run.epochs", "3")
    run = begin_with(earlier, tmp_path / "run", *grown, *options)
    shutil.rmtree(earlier)
    figures = report(run)
    assert figures["from"]["users"] == {"known": 15, "new": 8, "dropped": 0, "kept": 1}
    assert figures["from"]["items"] == {"known": 7, "new": 4, "dropped": 0, "kept": 1}
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == figures["model"]
    had, withheld = {item for user, item in TRAIN if user == REMOVED_USER}, dict(WITHHELD)[REMOVED_USER]
    for mark, left_out in (((), had | {withheld}), (("--mark", "test"), had)):
        assert main(["recommend", str(run), "--user", str(REMOVED_USER), "--json", *mark]) == 0
        items = [entry["item"] for entry in json.loads(capsys.readouterr().out)["items"]]
        assert not left_out & set(items)
    known = [item for item in items if item < worlds.FIRST_ITEM + 8]
    assert known[0] == withheld
    assert REMOVED_ITEM in items
    # Training has moved its neighbours, and not what it does not visit.
    for side, raw_id in (("user", REMOVED_USER), ("item", REMOVED_ITEM)):
        assert torch.equal(vector(run, side, raw_id), vector(origin, side, raw_id))
        assert not torch.equal(vector(run, side, raw_id + 2), vector(origin, side, raw_id + 2))


def test_retained_items_are_left_out_of_evaluated_lists(origin, grown, tmp_path, capsys):
    baselines = ("--evaluation.baselines", "popularity,random,item_knn,ease,low_rank")
    short = ("--run.epochs", "1", *baselines)
    figures = {}
    for removed in ("drop", "keep"):
        run = begin_with(origin, tmp_path / removed, *grown, *short, "--run.removed", removed)
        figures[removed] = report(run)
        message = "1 item kept from an earlier run is left out, as nobody can be looking for them"
        assert (message in " ".join(capsys.readouterr().out.split())) == (removed == "keep")
    dropped, kept = figures["drop"], figures["keep"]
    assert kept["items"] == dropped["items"] == 11
    assert kept["left_out"] == 1
    assert "left_out" not in dropped
    for ranker in baselines[1].split(","):
        assert kept[ranker] == pytest.approx(dropped[ranker]), ranker
    # Biases of new items start from the mean of a larger catalogue.
    assert kept["model"] == pytest.approx(dropped["model"], abs=0.01)
    assert main(["evaluate", str(tmp_path / "keep"), "--beyond", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == kept["model"]
    assert main(["recommend", str(tmp_path / "keep"), "--user", "1003", "--json", "-k", "99"]) == 0
    served = [entry["item"] for entry in json.loads(capsys.readouterr().out)["items"]]
    assert REMOVED_ITEM in served


def test_retained_ids_are_retained_again_and_return_with_their_vectors(origin, grown, tmp_path, capsys):
    kept = begin_with(origin, tmp_path / "kept", *grown, "--run.epochs", "1", "--run.removed", "keep")
    again = begin_with(kept, tmp_path / "again", "--run.epochs", "1")  # removed: keep is the run's own
    assert report(again)["from"]["users"] == {"known": 23, "new": 0, "dropped": 0, "kept": 1}
    assert torch.equal(vector(again, "user", REMOVED_USER), vector(origin, "user", REMOVED_USER))
    (tmp_path / "all").mkdir()
    data = worlds.options(tmp_path / "all", GROWN, GROWN_WITHHELD)
    back = begin_with(again, tmp_path / "back", *data, "--run.epochs", "1")
    assert report(back)["from"]["users"] == {"known": 24, "new": 0, "dropped": 0, "kept": 0}
    assert not torch.equal(vector(back, "user", REMOVED_USER), vector(origin, "user", REMOVED_USER))


def test_a_training_that_crashed_resumes_without_the_earlier_run(origin, grown, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(origin, earlier)
    options = ("--run.removed", "keep", "--run.epochs", "2", "--run.save_every", "9")
    run = begin_with(earlier, tmp_path / "run", *grown, *options)
    figures = report(run)
    (run / "metrics.json").unlink()
    shutil.rmtree(newest(run).folder)
    shutil.rmtree(earlier)
    assert main(["train", "--run.dir", str(run)]) == 0
    again = report(run)
    assert (again["model"], again["from"]) == (figures["model"], figures["from"])


def test_a_warning_counts_held_out_interactions_that_the_earlier_run_was_trained_on(origin, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    told = [pair for pair in TRAIN if pair[1] == 53]
    data = worlds.options(tmp_path / "data", [pair for pair in TRAIN if pair not in told], [*told, *WITHHELD])
    run = begin_with(origin, tmp_path / "run", *data, "--run.epochs", "1")
    words = (
        f"Warning: {len(told)} of the {len(told) + len(WITHHELD)} interactions to be found are among those"
    )
    assert words in " ".join(capsys.readouterr().out.split())
    assert (report(run)["from"]["told"], report(run)["from"]["measured"]) == (len(told), len(told) + 16)


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [("--model.dim", "16", "8"), ("--model.history", "bag", "none"), ("--loss.name", "bpr", "softmax")],
)
def test_a_model_of_another_shape_is_refused_with_both_values(option, value, before, origin, grown, capsys):
    rows = ("--batches.rows", "interaction")
    error = refusal(capsys, "train", "--from", str(origin), *grown, *rows, option, value)
    assert error.startswith(f"error: {option} {value}: {origin} has {before}")


def test_a_folder_that_is_not_a_run_is_refused(tmp_path, capsys):
    error = refusal(capsys, "train", "--from", str(tmp_path))
    assert error.startswith(f"error: --from {tmp_path}: no run folder")
    assert "--from: a run folder is needed" in refusal(capsys, "train", "--from")
    assert "--run.removed keep: needs --from RUN" in refusal(capsys, "train", "--run.removed", "keep")


def test_a_run_with_the_vocabulary_of_another_is_refused(origin, grown, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(origin, run)
    users = run / "vocabulary" / "users.arrow"
    users.write_bytes(users.read_bytes().replace((1001).to_bytes(8, "little"), (999).to_bytes(8, "little")))
    for options in ([], ["--run.removed", "keep"]):
        new = str(tmp_path / "new")
        error = refusal(capsys, "train", "--from", str(run), *grown, "--run.dir", new, *options)
        assert f"{run / 'vocabulary'}: is not the one that step-000000080 was trained with" in error


def priced(folder: Path, factor: float, options: list[str]) -> list[str]:
    """Options for items that have a price in some currency."""
    items = np.arange(worlds.FIRST_ITEM, worlds.FIRST_ITEM + 12)
    pq.write_table(pa.table({"item_id": items, "price": (items + 0.5) * factor}), folder / "items.parquet")
    return [*options, "--data.items", str(folder / "items.parquet"), "--model.item_features", "price"]


def test_a_price_is_read_on_the_scale_of_the_earlier_run(grown, tmp_path):
    first = worlds.options(tmp_path, TRAIN, WITHHELD)
    earlier = worlds.trained(tmp_path / "earlier", *ADAM, *priced(tmp_path, 1, first))
    frozen = ("--optimizer.learning_rate", "1e-9", "--optimizer.dense_learning_rate", "1e-9")
    later = begin_with(earlier, tmp_path / "later", *priced(tmp_path, 1, grown), *frozen)
    layers = [
        open_run(run).tower_pairs[0].towers.candidate.dense_inputs.layers["item_price"]
        for run in (earlier, later)
    ]
    # The new catalogue has other items, of another mean price; the layer's weights mean the earlier one.
    assert layers[1].center == layers[0].center == 55  # (51.5 + ... + 58.5) / 8
    assert layers[1].scale == layers[0].scale
    torch.testing.assert_close(layers[1].weight, layers[0].weight, rtol=0, atol=1e-5)


def test_an_attribute_that_is_a_number_no_more_is_refused(grown, tmp_path, capsys):
    first = worlds.options(tmp_path, TRAIN, WITHHELD)
    earlier = worlds.trained(tmp_path / "earlier", *ADAM, *priced(tmp_path, 1, first))
    error = refusal(
        capsys, "train", "--from", str(earlier), *priced(tmp_path, 2, grown), "--run.dir", str(tmp_path / "x")
    )
    # Twice the prices are whole numbers, which are categories unless the kind says otherwise.
    assert f"price: was a number in {earlier}, and is a category now. Read it as before with --data" in error
    begin_with(
        earlier,
        tmp_path / "y",
        *priced(tmp_path, 2, grown),
        "--data.attribute_kinds.price",
        "number",
    )
