"""Signals that ask a training to pause, in one process."""

import signal

import pytest

from tests import worlds
from trainer.cli import main
from trainer.distributed import preemption
from trainer.distributed.preemption import Preemption
from trainer.distributed.world import join_world
from trainer.fitting import loop
from trainer.runs.checkpoint_store import newest_resumable

TRAIN, WITHHELD = worlds.checkerboard()


@pytest.fixture(autouse=True)
def usual_handlers():
    """As in a terminal: what is started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_close_together_are_one_request_and_handlers_are_restored(number):
    before = [signal.getsignal(each) for each in preemption.SIGNALS]
    with join_world("cpu") as world, Preemption(world) as asked:
        assert not asked.stop_requested()
        signal.raise_signal(number)
        signal.raise_signal(number)  # a terminal and a launcher send one each
        assert asked.stop_requested()
    assert [signal.getsignal(each) for each in preemption.SIGNALS] == before


def test_a_second_request_acts_at_once(monkeypatch):
    monkeypatch.setattr(preemption, "ONE_REQUEST_SECONDS", -1)
    with join_world("cpu") as world, Preemption(world):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def asked_and_then_alone():
    with join_world("cpu") as world, Preemption(world):
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("the other ranks are gone")


def test_a_signal_has_its_usual_effect_where_the_other_ranks_are_gone():
    with pytest.raises(KeyboardInterrupt):
        asked_and_then_alone()


def test_signals_keep_their_usual_effect_where_nothing_could_be_saved():
    with join_world("cpu") as world, Preemption(world, active=False) as asked:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not asked.stop_requested()


def test_a_training_that_was_paused_goes_on_and_ends_as_one_without_a_pause(tmp_path, monkeypatch, capsys):
    options = [*worlds.options(tmp_path, TRAIN, WITHHELD), "--evaluation.baselines", "[]"]
    whole = worlds.trained(tmp_path / "whole", *options)
    taken, step = [0], loop.train_step

    def signalled(*arguments):
        taken[0] += 1
        if taken[0] == 7:
            signal.raise_signal(signal.SIGTERM)
        return step(*arguments)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(loop, "train_step", signalled)
        capsys.readouterr()
        run = worlds.trained(tmp_path / "paused", *options)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"Paused after step 7 of 80, all of it kept in {run}.",
        f"Go on with: python -m trainer train --run.dir {run}",
    ]
    assert newest_resumable(run).step == 7
    assert not (run / "metrics.json").exists()
    assert main(["train", "--run.dir", str(run)]) == 0
    assert "Going on after step 7 of 80." in capsys.readouterr().out
    assert worlds.figures(run) == worlds.figures(whole)
