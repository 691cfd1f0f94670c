"""How far an evaluation is, as it is shown on stderr."""

import sys
from collections.abc import Iterator

import pytest

from trainer.evaluation import evaluator as evaluate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds, which stand until a test moves them."""
    now = [100.0]
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: now[0])
    return now


def walk(clock: list[float], seconds: float, active: bool = True) -> None:
    for _ in evaluate._shown(range(0, 1000, 250), 1000, active):
        clock[0] += seconds


def test_a_long_evaluation_says_now_and_then_how_far_it_is(clock: list[float], capsys) -> None:
    walk(clock, 40)
    # After 80 s half of the users are done, so that 80 s are left; 40 s later nothing has to be said again.
    assert capsys.readouterr() == ("", "500 of 1,000 users ranked, 80 s left\n")


@pytest.mark.parametrize(("seconds", "active"), [(10, True), (1000, False)])
def test_a_short_one_and_other_ranks_say_nothing(seconds, active, clock: list[float], capsys) -> None:
    walk(clock, seconds, active)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar_in_place_of_lines(clock: list[float], capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(evaluate, "QUIET_SECONDS", 0)
    walk(clock, 1000)
    shown = capsys.readouterr().err
    assert "/1000 [" in shown
    assert "ranked" not in shown
