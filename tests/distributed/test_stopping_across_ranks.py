"""Ranks stop at the same step, and keep the weights of the same one, at any number of them."""

from pathlib import Path

import pytest

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, small_dataset, source_of
from trainer.dataset.dataset import open_dataset
from trainer.fitting.components import assemble
from trainer.fitting.loop import fit, validate
from trainer.runs.checkpoint_policy import save_outcome

pytestmark = pytest.mark.distributed

WORSENING = (
    "--data.validation_size 0.3 --run.evaluate_every 1 --run.patience 2 --run.epochs 40 --run.log_every 0 "
    "--optimizer.schedule constant --optimizer.learning_rate 0.3 --optimizer.table_learning_rates {}"
)


class Silent:
    def advance(self):
        pass

    def say(self, text):
        pass

    def record(self, step, text, **figures):
        pass


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--sharding.kind data_parallel --model.hidden 8",
        "--model.dim 128 --sharding.kind column_wise --optimizer.name adagrad",
    ],
)
def test_all_ranks_stop_at_the_same_step_with_the_same_weights(options, tmp_path):
    folder = small_dataset(tmp_path, validation_size=0.3)
    config = configured(WORSENING, options)
    courses = []
    for size in (1, 2):
        run = tmp_path / f"{size} ranks"
        first, *others = run_on_ranks(size, train_until_it_stops, config, folder, run)
        history, step, kept = first
        assert others == [(history, step, kept)] * (size - 1)
        figures = [figure for _, figure in history]
        best = figures.index(max(figures))
        assert 0 < best < len(figures) - 1
        assert len(figures) == best + 1 + 2 < 40
        # The model has the weights of the best validation again, and the run has no others.
        assert (step, kept["ndcg@5"]) == history[best]
        assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{step:09d}"]
        courses.append(history)
    alone, two = courses
    assert [step for step, _ in two] == [step for step, _ in alone]
    assert [figure for _, figure in two] == pytest.approx([figure for _, figure in alone], abs=1e-3)


def test_the_next_best_weights_take_the_place_of_those_that_could_not_be_written(tmp_path):
    folder, config = small_dataset(tmp_path, validation_size=0.3), configured(WORSENING)
    (figures, best, _), _ = run_on_ranks(2, train_until_it_stops, config, folder, tmp_path / "run")
    (tmp_path / "full" / "checkpoints").mkdir(parents=True)
    (tmp_path / "full" / "checkpoints" / f"step-{best:09d}").touch()
    before = [pair for pair in figures if pair[0] < best]
    for again, step, kept in run_on_ranks(2, train_until_it_stops, config, folder, tmp_path / "full"):
        assert again == figures
        assert (step, kept["ndcg@5"]) == max(before, key=lambda pair: pair[1])
        assert kept["ndcg@5"] > figures[-1][1]


def train_until_it_stops(world, config, folder, run):
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    world.on_first(lambda: Path(run).mkdir(exist_ok=True))
    source = source_of(config, dataset, parts)
    history, watch = fit(config, dataset, parts, source, world, Silent(), run)
    step = save_outcome(
        run,
        config.run,
        model=parts.model,
        optimizer=parts.optimizer,
        optimizer_name=config.optimizer.name,
        world=world,
        history=history,
        seconds=watch.seconds,
    )
    figures = [(each.step, each.figure) for each in history.validations]
    return figures, step, validate(config, dataset, parts, world)
