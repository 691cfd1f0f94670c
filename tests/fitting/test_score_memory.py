"""Steps whose scores no memory holds are refused before they are taken, with a size that fits."""

from pathlib import Path

import pytest

from tests import worlds
from trainer.cli import main
from trainer.fitting import score_memory

COMMON = "--model.dim 8 --model.low_rank 0 --run.choose false --run.epochs 1 --run.tensorboard false"


def train(folder: Path, *options: str) -> int:
    return main(["train", *COMMON.split(), "--run.dir", str(folder / "run"), *options])


@pytest.mark.parametrize(("rows", "size"), [("user", 16), ("interaction", 32)])
def test_a_step_with_too_many_scores_is_refused_with_a_size_that_fits(
    rows: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(score_memory, "available_memory", lambda: size * 8 * 4 // 4)  # a quarter
    options = [*worlds.options(tmp_path, *worlds.checkerboard()), "--batches.rows", rows, "--batches.size"]
    assert train(tmp_path, *options, str(size)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--batches.size {size}: scores of {size} rows x 8 candidates take" in line
    assert line.endswith(f"Take fewer rows: --batches.size {size // 8}")
    assert not (tmp_path / "run").exists()
    assert train(tmp_path, *options, str(size // 8)) == 0


def test_pairs_alone_have_no_matrix_of_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_memory, "available_memory", lambda: 1)
    pairs = "--data.name synthetic --loss.name mse --batches.rows interaction"
    assert train(tmp_path, "--data.cache", str(tmp_path), *pairs.split()) == 0
