"""Kernels and ranks that are really tried, and processes that crash or hang as they try."""

from collections.abc import Iterator

import pytest
import torch

from trainer.distributed.world import World, join_world
from trainer.doctor import kernel_trials, trials
from trainer.doctor.kernel_trials import TOLERANCE, try_step
from trainer.doctor.trials import exchange, expected, judge_kernels, judge_round_trip, try_all

BREAKING = "tests.doctor.breaking"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join_world("cpu") as joined:
        yield joined


def test_what_is_said_to_work_are_kinds_with_a_kernel_for_the_optimizer() -> None:
    # On CPU 4 kinds have fused kernels, which 3 optimizers have; 3 kinds have dense kernels, which Adam has;
    # and data_parallel has dense ones alone, which the 3 have too.
    assert len(expected(["cpu"])) == 4 * 3 + 3 + 3
    assert "cpu,column_wise,adam" not in expected(["cpu"])
    assert "cuda,row_wise,adam_fused" in expected(["cpu", "cuda"])


@pytest.mark.parametrize("combination", expected(["cpu"]))
def test_every_kernel_takes_the_step_that_its_rule_gives(combination: str, world: World) -> None:
    assert try_step(*combination.split(",")) < TOLERANCE


def test_a_kernel_that_takes_another_step_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernel_trials.FIRST_STEPS, "sgd", lambda gradient: 1.1 * gradient)
    rows = torch.tensor(kernel_trials.LOOKED_UP["item"])
    items = kernel_trials.normal_values("item")[rows]
    assert try_step("cpu", "table_wise", "sgd") >= 0.1 * kernel_trials.RATE * float(items.abs().max()) * 0.99


def test_a_kernel_that_ends_the_process_is_a_finding_and_the_others_are_tried() -> None:
    tried, not_started = try_all(["a", "die", "b", "fail", "die ", "c"], BREAKING)
    assert not_started is None
    assert tried == {
        "a": None,
        "die": "killed by signal 11 (SIGSEGV)",
        "b": None,
        "fail": "ValueError: wrong",
        "die ": None,
        "c": None,
    }
    facts = {"importable": True, "all": 9, "expected": 6, "tried": tried, "not_started": None}
    assert judge_kernels(facts).text == (
        "of 9 combinations of device, sharding and optimizer 6 should work; 2 do not. "
        "die: killed by signal 11 (SIGSEGV); fail: ValueError: wrong"
    )


def test_a_kernel_that_hangs_is_waited_for_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "TRIAL_SECONDS", 1)
    assert try_all(["hang", "a"], BREAKING) == ({"hang": "no answer within 1 s", "a": None}, None)


def test_a_process_that_ends_before_it_tries_anything_is_not_started_again() -> None:
    assert try_all(["early", "a"], BREAKING) == ({}, "ImportError: no such library")


def test_ranks_that_break_are_named_with_their_fault() -> None:
    answers, faults = exchange(2, "die", "gloo", BREAKING)
    facts = {"backend": "gloo", "there": True, "ranks": 2, "answers": answers, "faults": faults}
    verdict = judge_round_trip(facts)
    assert verdict.severity == "error"
    assert verdict.text == (
        "2 ranks did not exchange values. rank 0: killed by signal 11 (SIGSEGV); "
        "rank 1: killed by signal 11 (SIGSEGV)"
    )
