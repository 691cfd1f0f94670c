"""A checkpoint belongs to the vocabulary that it was trained with, and opens with no other."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import worlds
from trainer.cli import main
from trainer.dataset.vocabulary import vocabulary_digest

TRAIN, WITHHELD = worlds.checkerboard()
SHORT = ("--run.epochs", "2", "--run.save_every", "5")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one shape whose user ids differ."""
    found = []
    for name, raw in (("one", lambda number: number), ("other", lambda number: number + 2000)):
        folder = tmp_path_factory.mktemp(name)
        found.append(worlds.trained(folder, *SHORT, *worlds.options(folder, TRAIN, WITHHELD, raw)))
    return found[0], found[1]


@pytest.fixture
def swapped(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A run with the vocabulary of another one."""
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    shutil.rmtree(run / "vocabulary")
    shutil.copytree(runs[1] / "vocabulary", run / "vocabulary")
    return run


def refusal(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: {run / 'vocabulary'}: is not the one that step-0000000")
    return error


@pytest.mark.parametrize("command", [("evaluate",), ("recommend", "--user", "3001")])
def test_a_run_with_another_runs_vocabulary_is_not_opened(command, swapped, capsys):
    refusal(swapped, capsys, command[0], str(swapped), *command[1:])


def test_a_training_does_not_go_on_with_another_vocabulary(swapped, capsys):
    (swapped / "metrics.json").unlink()
    shutil.rmtree(swapped / "checkpoints" / "step-000000008")
    refusal(swapped, capsys, "train", "--run.dir", str(swapped))


@pytest.mark.parametrize("file", ["users.arrow", "items.arrow"])
def test_a_changed_byte_is_seen(file, runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    path = run / "vocabulary" / file
    content = path.read_bytes()
    place = content.index((1001 if file == "users.arrow" else 51).to_bytes(8, "little"))
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    refusal(run, capsys, "recommend", str(run), "--user", "1002")


def test_a_training_does_not_go_on_with_data_whose_users_have_changed(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    (run / "metrics.json").unlink()
    file = runs[0].parent / "interactions.parquet"
    before = file.read_bytes()
    table = pq.read_table(file)
    pq.write_table(
        table.set_column(0, "user_id", pa.array([user + 1 for user in table["user_id"].to_pylist()])), file
    )
    capsys.readouterr()
    try:
        assert main(["train", "--run.dir", str(run)]) == 2
    finally:
        file.write_bytes(before)
    assert f"{run}: its data have changed since the training" in capsys.readouterr().err
    assert vocabulary_digest(run) == vocabulary_digest(runs[0])


def test_a_checkpoint_without_the_hash_is_refused_with_words(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    for state in (run / "checkpoints").glob("*/state.json"):
        description = json.loads(state.read_text())
        del description["vocabulary"], description["own_sha256"]
        state.write_text(json.dumps(description))
    capsys.readouterr()
    assert main(["recommend", str(run), "--user", "1001"]) == 2
    assert "state.json: cannot be read (of an older version)" in capsys.readouterr().err
