"""Experiment trackers: what they are given, offline; how a training outlives one that fails."""

import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path

import pytest

from tests import worlds
from trainer.cli import main
from trainer.config.parser import parse_config
from trainer.config.schema import RunConfig
from trainer.errors import ConfigError
from trainer.reporting import trackers
from trainer.reporting.progress import Progress
from trainer.reporting.trackers import TRACKERS, Tracker, Trackers, check_trackers

SETTINGS = {"model.dim": 8, "loss.name": "softmax"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may ask the network for anything, nor depend on the machine's own trackers."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
    }.items():
        monkeypatch.setenv(name, value)


def test_the_option_takes_the_trackers_that_there_are() -> None:
    (names,) = typing.get_args(typing.get_type_hints(RunConfig)["trackers"])
    assert set(typing.get_args(names)) == set(TRACKERS)
    assert parse_config(["--run.trackers", "mlflow,wandb"]).run.trackers == ["mlflow", "wandb"]


def test_nothing_is_imported_before_a_tracker_is_asked_for() -> None:
    code = (
        "import sys; from pathlib import Path; from trainer.reporting.progress import Progress; "
        "from trainer.reporting.trackers import Trackers; Trackers([], Path('.'), {}, print); "
        "print(sorted({*sys.modules} & {'mlflow', 'wandb'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_package_is_named_before_anything_is_trained(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"--run.trackers wandb: .* Run: pip install wandb, or leave wandb out"
    ):
        check_trackers(["wandb"])
    options = worlds.options(tmp_path, *worlds.checkerboard())
    run = tmp_path / "run"
    arguments = ["train", *worlds.QUICK, "--device", "cpu", "--run.dir", str(run), *options]
    assert main([*arguments, "--run.trackers", "mlflow"]) == 2
    assert "pip install mlflow-skinny" in capsys.readouterr().err
    assert not run.exists()


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(tmp_path: Path, monkeypatch) -> None:
    logged, said = [], []

    def failing(step: int, figures: object) -> None:
        raise ConnectionError("no route\nto host")

    def good(step: int, figures: object) -> None:
        logged.append((step, figures))

    for name, log in (("mlflow", failing), ("wandb", good)):
        kind = replace(TRACKERS[name], open=lambda *_, log=log, name=name: Tracker(name, log, lambda _: None))
        monkeypatch.setitem(TRACKERS, name, kind)
    opened = Trackers(["mlflow", "wandb"], tmp_path, {}, said.append)
    for step in (1, 2):
        opened.log(step, {"loss": 1.0})
    opened.close(True)
    assert logged == [(1, {"loss": 1.0}), (2, {"loss": 1.0})]
    assert said == ["--run.trackers mlflow: has failed (no route). The training goes on without it."]


def test_one_that_cannot_be_opened_is_left_out(tmp_path: Path, monkeypatch) -> None:
    def refused(*_: object) -> Tracker:
        raise ValueError

    said = []
    monkeypatch.setitem(TRACKERS, "wandb", replace(TRACKERS["wandb"], open=refused))
    opened = Trackers(["wandb"], tmp_path, {}, said.append)
    opened.log(1, {})
    opened.close(True)
    assert said == ["--run.trackers wandb: has failed (ValueError). The training goes on without it."]


def test_other_ranks_track_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("trainer.reporting.progress.Trackers", pytest.fail)
    config = parse_config(["--run.trackers", "mlflow"])
    with Progress(tmp_path, 1, active=False, tensorboard=False) as progress:
        progress.track(config)
        progress.record(1, "", loss=1.0)


def test_mlflow_has_a_training_that_was_resumed_as_one_run(tmp_path: Path) -> None:
    options = worlds.options(tmp_path, *worlds.checkerboard())
    saved = ("--run.save_every", "40", "--run.log_every", "40", "--run.trackers", "mlflow")
    run = worlds.trained(tmp_path, *options, *saved)
    (run / "metrics.json").unlink()  # as if it had been killed after its last checkpoint
    assert main(["train", "--run.dir", str(run), "--run.epochs", "30"]) == 0
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("shardtower")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["model.dim"] == "8"
    # Parameters are written once: what a resumed training changed is a tag.
    assert (found.data.params["run.epochs"], found.data.tags["resumed.run.epochs"]) == ("20", "30")
    assert found.data.metrics["test/ndcg_at_10"] == worlds.figures(run)["ndcg@10"]
    steps = {each.step for each in client.get_metric_history(found.info.run_id, "loss")}
    assert steps == {40, 80, 120}


def test_wandb_keeps_a_run_offline_and_goes_on_under_its_id(tmp_path: Path) -> None:
    said = []
    for steps in ((1, 2), (2, 3)):
        opened = Trackers(["wandb"], tmp_path, SETTINGS, said.append)
        for step in steps:
            opened.log(step, {"validation/ndcg@10": step / 10})
        opened.close(step == 3)
    assert said == []
    records = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(records) == 2
    assert len({path.name for path in records}) == 1  # run-ID.wandb
    for path in records:
        assert b"validation/ndcg@10" in path.read_bytes()
        assert b"model.dim" in path.read_bytes()
