"""When a training stops, and which weights it leaves: validation figures, and trainings that get worse."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import worlds
from trainer.cli import main
from trainer.config.parser import read_config
from trainer.fitting import loop
from trainer.runs import validation_history as stopping
from trainer.runs.checkpoint_store import newest
from trainer.runs.validation_history import Stopwatch, ValidationHistory
from trainer.training.messages import validation_text


def history(figures: list[float], patience: int, epochs: int = 10) -> ValidationHistory:
    """A course of these figures, one an epoch of 4 steps and 2 seconds."""
    made = ValidationHistory("ndcg@5", patience, epochs * 4, 4)
    for epoch, figure in enumerate(figures, start=1):
        made.add(epoch * 4, epoch * 2.0, figure)
    return made


@pytest.mark.parametrize(
    ("figures", "patience", "over"),
    [
        ([], 1, False),
        ([0.0], 1, False),
        ([0.1, 0.2, 0.2], 1, True),  # as good as the best is no new best
        ([0.1, 0.2, 0.1], 2, False),
        ([0.1, 0.2, 0.1, 0.2], 2, True),
        ([0.1, 0.2, 0.1, 0.3], 2, False),
        ([0.1, 0.2, 0.1, 0.3, 0.2], 2, False),  # the count starts again at a new best
        ([0.1, 0.2, 0.1, 0.3, 0.2, 0.1], 2, True),
        ([0.3, 0.2, 0.1, 0.1, 0.1, 0.1], 0, False),
    ],
)
def test_patience_is_over_after_that_many_validations_without_a_new_best(figures, patience, over) -> None:
    assert history(figures, patience).patience_is_over is over


def test_a_figure_is_a_new_best_only_if_it_is_above_all_before_it() -> None:
    made, news, second = history([], 0), [], []
    for step, figure in enumerate([0.0, 0.2, 0.1, 0.2, 0.3], start=1):
        made.add(step, 1.0, figure)
        news.append(made.is_among_best(step, 1))
        second.append(made.is_among_best(step, 2))
    assert news == [True, True, False, False, True]
    assert second == [True, True, True, True, True]
    assert made.best.step == 5
    assert not made.is_among_best(6, 9)  # nothing was measured then


def test_of_equal_figures_the_first_is_the_best() -> None:
    assert history([0.1, 0.3, 0.2, 0.3], 0).best.step == 8


def test_a_training_whose_patience_ends_with_its_last_step_did_not_stop_early() -> None:
    assert history([0.2, 0.1], patience=1, epochs=3).stopped_early
    assert not history([0.2, 0.1], patience=1, epochs=2).stopped_early
    assert not history([0.1, 0.2], patience=1, epochs=3).stopped_early


def test_the_seconds_to_a_share_of_the_best_are_those_of_the_first_figure_that_reaches_it() -> None:
    # 99% of 0.8 is 0.792: 0.79 at 2 s falls short, 0.795 at 4 s does not.
    made = history([0.79, 0.795, 0.5, 0.8, 0.799], 0)
    assert made.seconds_to(0.99) == 4
    assert made.seconds_to(0.98) == 2
    assert made.seconds_to(1) == 8
    assert history([0.0, 0.0], 0).seconds_to(0.99) == 2


def test_a_stopwatch_stands_still_in_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stopping.time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    now[0] += 3
    assert (watch.seconds, watch.pauses) == (3, 0)
    for _ in range(2):
        with watch.paused():
            now[0] += 10
            assert watch.seconds == 3
    now[0] += 4
    assert (watch.seconds, watch.pauses) == (7, 20)


def test_a_text_names_the_best_epoch_an_early_stop_and_the_saved_weights() -> None:
    falling = [0.1, 0.25, 0.2, 0.2]
    assert (
        validation_text(history(falling, 2))
        == "Best at epoch 2 of 10, stopped at 4: validation ndcg@5 0.2500."
    )
    assert validation_text(history(falling, 2, 4)) == "Best at epoch 2 of 4: validation ndcg@5 0.2500."
    assert validation_text(history(falling, 0, 4)) == (
        "Best at epoch 2 of 4: validation ndcg@5 0.2500; the last weights are kept."
    )
    assert validation_text(history([0.1, 0.25], 0, 2)) == "Best at epoch 2 of 2: validation ndcg@5 0.2500."
    lost = history([0.1, 0.25, 0.2, 0.15], 2)
    lost.kept = 3 * 4
    assert validation_text(lost) == (
        "Best at epoch 2 of 10, stopped at 4: validation ndcg@5 0.2500, "
        "but these weights could not be written; those of epoch 3 (0.2000) are kept."
    )


def noise() -> tuple[worlds.Pairs, worlds.Pairs]:
    """Users who all choose by popularity alone: whatever is learned of a single user is wrong."""
    generator = np.random.default_rng(3)
    odds = 2.0 / (2 + np.arange(24))
    users, items = np.nonzero(generator.random((60, 24)) < odds)
    pairs = [(int(user) + 1, int(item) + 1) for user, item in zip(users, items, strict=True)]
    held_out = generator.random(len(pairs)) < 0.2
    return (
        [pair for pair, held in zip(pairs, held_out, strict=True) if not held],
        [pair for pair, held in zip(pairs, held_out, strict=True) if held],
    )


WORSENING = (
    *("--data.validation_size", "0.3", "--run.evaluate_every", "1", "--evaluation.k", "5,3"),
    *("--model.popularity_prior", "0", "--optimizer.table_learning_rates", "{item: 0.05, item_bias: 0.05}"),
    *("--optimizer.schedule", "constant", "--run.log_every", "7"),
)
"""Options under which a training on `noise` learns popularity for a few epochs, and then noise."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return worlds.options(tmp_path_factory.mktemp("data"), *noise())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, data: list[str]) -> Path:
    """A run whose patience was over before its 20 epochs were."""
    return worlds.trained(tmp_path_factory.mktemp("stopped"), *data, *WORSENING, "--run.patience", "3")


def validations(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "validation/ndcg@5" in line]


def figures_of(run: Path) -> list[float]:
    return [record["validation/ndcg@5"] for record in validations(run)]


def report_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def measured(capsys: pytest.CaptureFixture[str], run: Path, split: str) -> dict:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--split", split, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_training_that_gets_worse_stops_after_its_patience(stopped: Path) -> None:
    figures = figures_of(stopped)
    best = int(np.argmax(figures))
    assert best > 0
    assert len(figures) == best + 1 + 3 < 20
    # 60 users in steps of 4.
    assert [record["step"] for record in validations(stopped)] == [15 * n for n in range(1, best + 5)]
    assert report_of(stopped)["validation"] == {
        "metric": "ndcg@5",
        "best": figures[best],
        "best_step": 15 * (best + 1),
        "best_epoch": best + 1,
        "last_step": 15 * (best + 4),
        "last_epoch": best + 4,
        "stopped_early": True,
        "kept_step": 15 * (best + 1),
        "kept_epoch": best + 1,
        "best_could_not_be_written": False,
    }


def test_the_weights_of_the_best_validation_are_saved_and_evaluated(capsys, stopped: Path) -> None:
    best = max(validations(stopped), key=lambda record: record["validation/ndcg@5"])
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == [f"step-{best['step']:09d}"]
    found = measured(capsys, stopped, "validation")
    assert found["step"] == report_of(stopped)["step"] == best["step"]
    assert {name: best[f"validation/{name}"] for name in found["model"]} == found["model"]
    assert report_of(stopped)["model"] == measured(capsys, stopped, "test")["model"]


def test_until_it_stops_a_training_is_the_one_that_does_not(tmp_path: Path, data, stopped: Path) -> None:
    whole = worlds.trained(tmp_path, *data, *WORSENING, "--run.patience", "0")
    figures, kept = figures_of(whole), figures_of(stopped)
    assert len(figures) == 20
    assert kept == figures[: len(kept)]
    # Without patience the last weights are kept, though the best are told.
    report = report_of(whole)
    assert report["step"] == report["validation"]["last_step"] == 300 > report["validation"]["best_step"]
    assert report["validation"]["kept_step"] == report["step"]
    assert not report["validation"]["stopped_early"]
    assert not report["validation"]["best_could_not_be_written"]


def test_losses_are_recorded_up_to_the_step_at_which_it_stops(stopped: Path) -> None:
    lines = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    steps, last = [line["step"] for line in lines if "loss" in line], validations(stopped)[-1]["step"]
    assert last % 7
    assert steps == [*range(7, last, 7), last]


def test_much_patience_trains_to_the_end_and_saves_the_best(capsys, tmp_path: Path, data) -> None:
    run = worlds.trained(tmp_path, *data, *WORSENING, "--run.patience", "1000", "--run.epochs", "10")
    shown = capsys.readouterr().out
    figures = figures_of(run)
    best = int(np.argmax(figures)) + 1
    assert len(figures) == 10 > best
    assert report_of(run)["step"] == best * 15
    said = f"\nBest at epoch {best} of 10: validation ndcg@5 {max(figures):.4f}. The table is of"
    assert said in shown
    assert " the test part, by which nothing was chosen. Trained in " in " ".join(shown.split())


def test_early_stopping_holds_with_save_every(tmp_path: Path, data) -> None:
    epochs = ("--run.epochs", "40")
    run = worlds.trained(tmp_path, *data, *WORSENING, *epochs, "--run.save_every", "7")
    figures = figures_of(run)
    best = int(np.argmax(figures))
    assert read_config(run / "config.yaml").run.patience == 10
    assert len(figures) == best + 1 + 10 < 40
    assert report_of(run)["step"] == 15 * (best + 1)


def test_a_training_that_crashed_after_its_patience_was_over_takes_no_more_steps(
    tmp_path, data, monkeypatch
) -> None:
    saving = ("--run.patience", "3", "--run.save_every", "15", "--run.keep_last", "9")
    run = worlds.trained(tmp_path, *data, *WORSENING, *saving)
    expected, figures = report_of(run), figures_of(run)
    (run / "metrics.json").unlink()
    assert newest(run).step == expected["validation"]["last_step"] > expected["step"]
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail("no step is left"))
    assert main(["train", "--run.dir", str(run)]) == 0
    assert (report_of(run)["model"], report_of(run)["step"]) == (expected["model"], expected["step"])
    assert figures_of(run) == figures


def test_the_last_epoch_is_validated_too(tmp_path: Path, data) -> None:
    options = [*WORSENING, "--run.epochs", "5", "--run.evaluate_every", "3", "--run.patience", "9"]
    run = worlds.trained(tmp_path, *data, *options)
    assert [record["epoch"] for record in validations(run)] == [3, 5]


def test_seconds_are_reported_until_the_figure_was_nearly_the_best(stopped: Path) -> None:
    seconds = report_of(stopped)["seconds"]
    assert sorted(seconds) == ["choose", "evaluate", "prepare", "to_99_percent_of_best", "train", "validate"]
    records = validations(stopped)
    best = max(figures_of(stopped))
    near = next(record for record in records if record["validation/ndcg@5"] >= 0.99 * best)
    assert seconds["to_99_percent_of_best"] == near["training_seconds"] < seconds["train"]


def test_a_training_that_is_cut_off_leaves_the_best_weights_so_far(
    capsys, tmp_path, monkeypatch, data
) -> None:
    taken, step = [0], loop.train_step

    def interrupted(*arguments):
        taken[0] += 1
        if taken[0] > 15 * 3 + 1:  # in the fourth epoch
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", interrupted)
    run = tmp_path / "run"
    options = [*data, *worlds.QUICK, *WORSENING, "--run.patience", "9", "--device", "cpu"]
    assert main([*options, "--run.dir", str(run)]) == 130
    best = max(validations(run), key=lambda record: record["validation/ndcg@5"])
    assert len(validations(run)) == 3
    assert newest(run).step == best["step"]
    assert measured(capsys, run, "validation")["model"]["ndcg@5"] == best["validation/ndcg@5"]
