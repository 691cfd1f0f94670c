"""Checkpoints that one rank cannot write, as on a full disk: the training goes on, or all ranks end."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launches import RANKS, end, environment, start
from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import Losses, configured, small_dataset, source_of
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.errors import SaveError
from trainer.fitting.components import assemble
from trainer.fitting.loop import fit
from trainer.runs.checkpoint_store import newest_resumable

pytestmark = pytest.mark.distributed

FILE_BYTES = 1000
"""Less than a shard has."""


class Saying(Losses):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class FillingUp(Saying):
    """After the third step no file of this process can grow above `FILE_BYTES`."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run, self.steps = run, 0

    def advance(self) -> None:
        self.steps += 1
        if self.steps == 3:
            while not (self.run / "checkpoints" / "step-000000002").exists():
                time.sleep(0.001)  # a thread may be at it
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, hard))


def train(world: World, config: Any, folder: Path, run: Path) -> list[str]:
    """Train on a disk that is full for the last rank alone; what is said."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    progress: Any = FillingUp(run) if world.rank == world.size - 1 else Saying()
    fit(config, dataset, parts, source_of(config, dataset, parts), world, progress, run)
    return progress.said


CASES = pytest.mark.parametrize(("size", "how"), [(1, ""), (2, ""), (2, "--run.save_async true")])


@CASES
def test_the_training_goes_on_and_says_so(size, how, tmp_path):
    run, config = tmp_path / "run", configured("--run.save_every 2", how)
    said, *_ = run_on_ranks(size, train, config, small_dataset(tmp_path), run)
    for line, step in zip(said, (4, 6), strict=True):  # the last step, 8, is kept by the end of the training
        assert line.startswith(f"{run}/checkpoints/step-{step:09d}: cannot be saved (")
        assert line.endswith("Make room, or name another --run.dir. The training goes on")
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step-000000002"]


@CASES
def test_all_ranks_end_where_that_is_wanted_and_the_one_before_stays(size, how, tmp_path):
    run, config = tmp_path / "run", configured("--run.save_every 2 --run.on_save_failure stop", how)
    with pytest.raises(SaveError, match="step-000000004: cannot be saved"):
        run_on_ranks(size, train, config, small_dataset(tmp_path), run)
    saved = newest_resumable(run)
    assert saved is not None
    assert saved.step == 2


STOPPING = (
    "--data.name synthetic --run.choose false --run.tensorboard false --model.dim 16 --batches.size 64 "
    "--data.validation_size 0.3 --run.evaluate_every 1 --run.patience 2 --run.epochs 40 --run.dir run "
    "--optimizer.schedule constant --optimizer.name rowwise_adagrad --optimizer.learning_rate 0.3"
)


def trained_until_it_stops(
    folder: Path, unwritable: int | None = None
) -> tuple[dict[str, Any], dict[int, float], str]:
    """Train at 2 ranks until patience is over.

    Args:
        folder: Where to train.
        unwritable: Step in whose checkpoint's place there is something else.

    Returns:
        The report, the figure of each validation, and what was printed.
    """
    if unwritable:
        (folder / "run" / "checkpoints").mkdir(parents=True)
        (folder / "run" / "checkpoints" / f"step-{unwritable:09d}").touch()
    training = start(folder, STOPPING, launcher=RANKS)
    output, errors = end(training, seconds=180)
    assert training.returncode == 0, errors[-3000:]
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    figures = {each["step"]: each["validation/ndcg@10"] for each in records if "validation/ndcg@10" in each}
    return json.loads((folder / "run" / "metrics.json").read_text()), figures, output


@pytest.mark.slow
def test_where_the_best_could_not_be_written_the_report_names_the_weights_that_are_kept(tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "full").mkdir()
    alone, _, output = trained_until_it_stops(tmp_path / "alone")
    best = alone["validation"]["best_step"]
    assert alone["step"] == alone["validation"]["kept_step"] == best
    assert not alone["validation"]["best_could_not_be_written"]
    assert "could not be written" not in output

    report, figures, output = trained_until_it_stops(tmp_path / "full", unwritable=best)
    told, kept = report["validation"], report["step"]
    assert max(figures, key=figures.__getitem__) == told["best_step"] == best != kept
    assert (told["kept_step"], told["kept_epoch"]) == (kept, kept / 16)  # 1,000 users in steps of 64
    assert told["best_could_not_be_written"]
    assert f"could not be written; those of epoch {kept / 16:g} ({figures[kept]:.4f}) are kept." in " ".join(
        output.split()
    )
    measured = subprocess.run(
        [sys.executable, "-m", "trainer", "evaluate", "run", "--split", "validation", "--json"],
        cwd=tmp_path / "full",
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(measured.stdout)
    assert found["step"] == kept
    assert found["model"]["ndcg@10"] == pytest.approx(figures[kept])
