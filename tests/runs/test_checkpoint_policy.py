"""Resumed runs: what may change, what is refused, and what damage does."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests import worlds
from trainer.cli import main

TRAIN, WITHHELD = worlds.checkerboard()
# 16 users in steps of 4: 80 steps in 20 epochs.
OFTEN = ("--run.save_every", "30", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a whole run, and the options that it was started with."""
    folder = tmp_path_factory.mktemp("trained")
    options = [*worlds.QUICK, *worlds.options(folder, TRAIN, WITHHELD), *OFTEN]
    run = ["--run.dir", str(folder / "run"), "--run.keep_last", "3"]
    assert main(["train", *options, *run]) == 0
    return folder, options


@pytest.fixture
def broken(trained: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, list[str]]:
    """A run as a crash after step 65 leaves it, and the options that it was started with."""
    folder, options = trained
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    (run / "metrics.json").rename(tmp_path / "whole.json")
    shutil.rmtree(run / "checkpoints" / "step-000000080")
    assert steps(run) == [30, 60]
    return run, [*options, "--run.dir", str(run)]


def steps(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").iterdir())


def whole_figures(run: Path) -> dict:
    return json.loads((run.parent / "whole.json").read_text())["model"]


def test_a_crashed_run_resumes_with_the_same_command_and_ends_the_same(broken, capsys):
    run, options = broken
    capsys.readouterr()
    assert main(["train", *options]) == 0
    assert "Going on after step 60 of 80." in capsys.readouterr().out
    assert worlds.figures(run) == whole_figures(run)
    records = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records == sorted(set(records))
    assert steps(run)[-1] == 80
    assert not (run / ".lock").exists()


def test_the_run_folder_alone_is_enough_to_resume(broken):
    run, _ = broken
    assert main(["train", "--run.dir", str(run)]) == 0
    assert worlds.figures(run) == whole_figures(run)


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [("--model.dim", "16", "8"), ("--run.seed", "7", "42"), ("--optimizer.name", "sgd", "rowwise_adagrad")],
)
def test_an_option_that_would_change_the_training_is_refused_with_both_values(
    option, value, before, broken, capsys
):
    run, options = broken
    capsys.readouterr()
    assert main(["train", *options, option, value]) == 2
    words = f"error: {option} {value}: the run in {run} has {before}, and goes on with it"
    assert capsys.readouterr().err.startswith(words)
    assert steps(run) == [30, 60]


def test_fewer_epochs_than_were_trained_are_refused_with_both_values(broken, capsys):
    run, options = broken
    before = contents(run)
    # 60 of 80 steps are trained, 4 make an epoch.
    for epochs in ("7", "14"):
        capsys.readouterr()
        assert main(["train", *options, "--run.epochs", epochs]) == 2
        message = (
            f"error: --run.epochs {epochs}: the run in {run} has trained 60 steps already, which is 15 "
            "epochs. Give 15 or more, or name another --run.dir\n"
        )
        assert capsys.readouterr().err == message
    assert contents(run) == before
    assert main(["train", *options, "--run.epochs", "15"]) == 0
    assert json.loads((run / "metrics.json").read_text())["step"] == 60


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("option", "value", "first", "before"),
    [("--evaluation.k", "3,5", "3", "5"), ("--evaluation.seen", "keep", "keep", "mask")],
)
def test_validation_figures_of_another_metric_are_refused(option, value, first, before, tmp_path, capsys):
    validated = ("--data.validation_size", "0.2", "--run.evaluate_every", "5", "--evaluation.k", "5,3")
    data = worlds.options(tmp_path, TRAIN, WITHHELD)
    run = worlds.trained(tmp_path, *data, *OFTEN, *validated)
    (run / "metrics.json").unlink()
    capsys.readouterr()
    assert main(["train", "--run.dir", str(run), option, value]) == 2
    message = f"error: {option} {first}: the validation figures of the run in {run} were taken with {before},"
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    # At other lengths behind the first the figures that decide stay what they are.
    assert main(["train", "--run.dir", str(run), "--evaluation.k", "5,2"]) == 0


def test_without_validation_figures_the_evaluation_may_change_on_resuming(broken):
    run, options = broken
    assert main(["train", *options, "--evaluation.k", "3", "--evaluation.seen", "keep"]) == 0
    assert "ndcg@3" in worlds.figures(run)


def test_another_plan_and_more_records_do_not_change_the_training(broken):
    run, options = broken
    assert main(["train", *options, "--sharding.kind", "row_partitioned", "--run.log_every", "1"]) == 0
    assert worlds.figures(run) == pytest.approx(whole_figures(run))
    for step, kind in ((60, "table_wise"), (80, "row_partitioned")):
        checkpoint = run / "checkpoints" / f"step-{step:09d}"
        assert f"kind: {kind}" in (checkpoint / "config.yaml").read_text()
    assert (checkpoint / "plan.json").read_bytes() == (run / "plan.json").read_bytes()


def test_a_checkpoint_without_states_is_not_resumed_from(trained, tmp_path, capsys):
    folder, options = trained
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    (run / "metrics.json").unlink()
    assert steps(run) == [30, 60, 80]
    without_states(run / "checkpoints" / "step-000000080" / "state.json")
    capsys.readouterr()
    assert main(["train", *options, "--run.dir", str(run)]) == 0
    assert "Going on after step 60 of 80." in capsys.readouterr().out


def without_states(state: Path) -> None:
    described = json.loads(state.read_text()) | {"resumable": False}
    del described["own_sha256"]
    own = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    state.write_text(json.dumps(described | {"own_sha256": own}))


def test_a_run_that_crashed_in_its_evaluation_is_not_trained_again(trained, tmp_path, capsys):
    folder, options = trained
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    (run / "metrics.json").rename(tmp_path / "whole.json")
    capsys.readouterr()
    assert main(["train", *options, "--run.dir", str(run)]) == 0
    assert "Going on after step 80 of 80." in capsys.readouterr().out
    assert worlds.figures(run) == whole_figures(run)


def test_prefetching_and_precision_may_change_on_resuming(broken, capsys):
    run, options = broken
    capsys.readouterr()
    assert main(["train", *options, "--batches.ahead", "2", "--model.precision", "bfloat16"]) == 0
    assert "Going on after step 60 of 80." in capsys.readouterr().out
    assert worlds.figures(run) == pytest.approx(whole_figures(run), abs=0.05)


def test_without_checkpoints_a_run_starts_again(broken, capsys):
    run, options = broken
    shutil.rmtree(run / "checkpoints")
    capsys.readouterr()
    assert main(["train", *options]) == 0
    assert "Going on" not in capsys.readouterr().out
    assert worlds.figures(run) == whole_figures(run)


def test_restarted_ranks_find_the_run_of_their_launch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this")
    options = [*worlds.QUICK, *worlds.options(tmp_path, TRAIN, WITHHELD), *OFTEN]
    assert main(["train", *options]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    expected = worlds.figures(run)
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-000000080")
    other = tmp_path / "runs" / "another"
    other.mkdir()
    (other / ".launch").write_text("that")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    capsys.readouterr()
    assert main(["train", *options]) == 0
    assert "Going on after step 60 of 80." in capsys.readouterr().out
    assert worlds.figures(run) == expected
    assert sorted((tmp_path / "runs").iterdir()) == sorted([run, other])


def test_a_finished_run_is_refused(broken, capsys):
    run, options = broken
    assert main(["train", *options]) == 0
    capsys.readouterr()
    assert main(["train", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: --run.dir {run}: holds a finished run")


def test_a_second_training_in_one_folder_is_refused(broken, capsys):
    run, options = broken
    capsys.readouterr()
    with FileLock(run / ".lock"):
        assert main(["train", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: --run.dir {run}: another training is at work in it")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b""), Path.unlink])
@pytest.mark.parametrize("file", ["*.distcp", ".metadata", "state.json"])
def test_damage_to_any_file_is_detected_and_the_checkpoint_before_is_taken(damage, file, broken, capsys):
    run, options = broken
    (path,) = (run / "checkpoints" / "step-000000060").glob(file)
    damage(path)
    published = (path.parent / "state.json").exists()
    capsys.readouterr()
    assert main(["train", *options]) == 0
    captured = capsys.readouterr()
    assert "Going on after step 30 of 80." in captured.out
    if published:
        assert "step-000000060" in captured.err
        assert "step-000000030 is taken in its place" in captured.err
    assert worlds.figures(run) == whole_figures(run)


def test_a_checkpoint_with_a_foreign_file_is_refused(broken, capsys):
    run, options = broken
    for step in (30, 60):
        (run / "checkpoints" / f"step-{step:09d}" / "extra.distcp").write_bytes(b"x")
    capsys.readouterr()
    assert main(["train", *options]) == 2
    captured = capsys.readouterr()
    assert "step-000000060: extra.distcp does not belong to it" in captured.err
    assert captured.err.count("\n") == 1
