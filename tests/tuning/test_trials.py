"""The search for the best value, and a tuning that is interrupted: it chooses what it would have chosen."""

import json
import math
import shlex
import signal
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.config.parser import read_config
from trainer.fitting import loop
from trainer.tuning import closed_form, learned, trials
from trainer.tuning.trials import MOST_TRIALS, climb, peak

DATA = (
    "--data.name synthetic --data.synthetic_users 200 --data.synthetic_items 90 "
    "--data.synthetic_interactions 4000 --model.dim 16 --run.epochs 4 --run.tensorboard false --device cpu"
)


def options(folder: Path) -> list[str]:
    return [*DATA.split(), "--data.cache", str(folder / "cache")]


def interrupted_at(monkeypatch, name: str, call: int) -> list[str]:
    """Raise KeyboardInterrupt in the given call of a function of tuning; returns what counts its calls."""
    module = learned if name == "fit" else closed_form
    calls, work = [], getattr(module, name)

    def counted(*arguments, **named):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return work(*arguments, **named)

    monkeypatch.setattr(module, name, counted)
    return calls


def outcome(run: Path) -> tuple[dict, dict]:
    """Figures of all trials and of the test split."""
    metrics = json.loads((run / "metrics.json").read_text())
    return metrics["chosen"], metrics["model"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["train", *options(folder), "--run.dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize(("work", "call"), [("fit", 1), ("fit", 3), ("_form", 2), ("_concatenate", 1)])
def test_an_interrupted_tuning_is_resumed_and_chooses_the_same(
    work, call, whole, tmp_path, monkeypatch, capsys
) -> None:
    run = tmp_path / "my run"
    with monkeypatch.context() as patch:
        interrupted_at(patch, work, call)
        assert main(["train", *options(whole.parent), "--run.dir", str(run)]) == 130
    captured = capsys.readouterr()
    finished = captured.out.count("Choosing, trial")
    command = f"python -m trainer train --run.dir {shlex.quote(str(run))}"
    assert captured.err == f"interrupted. Go on with: {command}\n"
    config = read_config(run / "config.yaml")
    assert (config.data.synthetic_users, config.model.temperature, config.model.low_rank) == (200, None, None)
    with monkeypatch.context() as patch:
        trainings = interrupted_at(patch, "fit", -1)
        assert main(shlex.split(command)[3:]) == 0
    assert outcome(run) == outcome(whole)
    again = capsys.readouterr().out.count("Choosing, trial")
    assert finished + again == trials_of(whole)
    # As many trainings as trials of temperatures and further splits that had not been finished.
    assert len(trainings) == max(0, trainings_of(whole) - finished)
    assert not (run / "tuning").exists()


def trainings_of(run: Path) -> int:
    """Temperatures, and the best one on further validation splits."""
    chosen, _ = outcome(run)
    return len(chosen["temperatures"]) + len(chosen["users"]) - 1


def trials_of(run: Path) -> int:
    return trainings_of(run) + len(outcome(run)[0]["penalties"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_trial_ends_it_after_a_step_and_keeps_those_before(
    number, whole, tmp_path, monkeypatch, capsys
) -> None:
    steps, step, run = [], loop.train_step, tmp_path / "run"

    def signalled(*arguments):
        steps.append(step)
        if len(steps) == 20:  # 200 users in steps of 64, 4 times: in the second trial
            signal.raise_signal(number)
        return step(*arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(loop, "train_step", signalled)
        assert main(["train", *options(whole.parent), "--run.dir", str(run), "--batches.size", "64"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(steps) == 20
    assert capsys.readouterr().err == f"interrupted. Go on with: python -m trainer train --run.dir {run}\n"
    assert len(json.loads((run / "tuning" / "trials.json").read_text())["figures"]) == 1


@pytest.mark.parametrize("most", [1, 2, 6])
def test_no_trial_is_run_twice_in_one_tuning(most, whole, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trials, "MOST_TRIALS", most)
    trainings = interrupted_at(monkeypatch, "fit", -1)
    assert main(["train", *options(whole.parent), "--run.dir", str(tmp_path / "run")]) == 0
    assert len(trainings) == trainings_of(tmp_path / "run")


def test_trials_of_other_settings_are_run_again(whole, tmp_path, monkeypatch, capsys) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupted_at(patch, "fit", 3)
        assert main(["train", *options(whole.parent), "--run.dir", str(run)]) == 130
    assert len(json.loads((run / "tuning" / "trials.json").read_text())["figures"]) == 2
    with monkeypatch.context() as patch:
        interrupted_at(patch, "fit", 1)
        assert main(["train", "--run.dir", str(run), "--run.epochs", "6"]) == 130
    assert "Choosing goes on" not in capsys.readouterr().out


def test_a_run_whose_settings_are_being_chosen_has_nothing_to_evaluate(
    whole, tmp_path, monkeypatch, capsys
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupted_at(patch, "fit", 1)
        assert main(["train", *options(whole.parent), "--run.dir", str(run)]) == 130
    capsys.readouterr()
    for command in (["evaluate", str(run)], ["plan", str(run)], ["train", "--from", str(run)]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "its settings are not chosen yet, so that it has no weights" in error
        assert error.endswith(f"python -m trainer train --run.dir {run}\n")


def test_off_a_terminal_a_line_stands_for_each_trial(whole, capsys, tmp_path, monkeypatch) -> None:
    interrupted_at(monkeypatch, "fit", 3)
    assert main(["train", *options(whole.parent), "--run.dir", str(tmp_path / "run")]) == 130
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Choosing")]
    first, second = list(outcome(whole)[0]["temperatures"].items())[1::-1]  # 0.2, then the lower neighbour
    # At most six temperatures, the best one on two further splits, and six penalties.
    assert lines == [
        f"Choosing, trial {number} of at most 14: temperature {float(value):.3g}, ndcg@10 {figure:.4f}"
        for number, (value, figure) in enumerate((first, second), start=1)
    ]


@pytest.mark.parametrize("top", [0.05, 0.2, 0.21, 0.9])
def test_a_climb_ends_between_worse_neighbours_wherever_the_top_is(top) -> None:
    calls = []

    def score(value: float) -> float:
        calls.append(value)
        return -abs(math.log(value / top))

    scores = climb(score, 0.2, 2)
    values = list(scores)
    assert values == sorted(values)
    assert len(calls) == len(set(calls)) == len(values) <= MOST_TRIALS
    best = max(scores, key=lambda value: scores[value])
    assert 0 < values.index(best) < len(values) - 1
    # The nearest of 0.2 x 2^n on the logarithmic scale.
    assert best == pytest.approx(0.2 * 2 ** round(math.log2(top / 0.2)))


def test_a_climb_without_end_is_given_up() -> None:
    assert len(climb(lambda value: value, 1.0, 2)) == MOST_TRIALS


def test_the_peak_is_that_of_the_parabola_through_the_best_three() -> None:
    # -(log2 x - 1.25)^2 at x = 1, 2, 4: the parabola is the function itself, its top at 2^1.25 = 2.378.
    scores = {float(2**n): -((n - 1.25) ** 2) for n in range(-1, 4)}
    assert peak(scores) == 2.378


def test_the_peak_at_an_end_and_on_a_plain_is_the_best_value_itself() -> None:
    assert peak({1.0: 0.5, 2.0: 0.4}) == 1.0
    assert peak({1.0: 0.5, 2.0: 0.5, 4.0: 0.5}) == 1.0
    assert peak({0.2: 0.7}) == 0.2
