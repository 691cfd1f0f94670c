"""Hosts that are told different things; two ranks stand for hosts of one rank each."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.distributed.ranks import outcomes_on_ranks, run_on_ranks
from trainer.distributed.agreement import HostFacts, agree, check_is_shared, disagreement
from trainer.errors import ConfigError

HERE = socket.gethostname()


def host(name: str, rank: int, **facts: str) -> HostFacts:
    return HostFacts(name, rank, facts)


def test_hosts_with_the_same_facts_agree():
    assert disagreement([host("a", 0, torch="2.13.0"), host("b", 2, torch="2.13.0")]) is None
    assert disagreement([host("a", 0, torch="2.13.0")]) is None


def test_the_first_difference_is_told_with_both_values_and_hosts():
    hosts = [
        host("a", 0, x="1", y="2", z="3"),
        host("b", 2, x="1", y="2", z="3"),
        host("c", 4, x="1", y="9", z="8"),
    ]
    assert disagreement(hosts) == "y: 2 on a (rank 0), 9 on c (rank 4)"


def test_what_one_host_alone_has_is_a_difference_whichever_it_is():
    assert disagreement([host("a", 0), host("b", 2, scipy="1.17")]) == (
        "scipy: none on a (rank 0), 1.17 on b (rank 2)"
    )
    assert disagreement([host("a", 0, scipy="1.17"), host("b", 2)]) == (
        "scipy: 1.17 on a (rank 0), none on b (rank 2)"
    )


def test_a_long_value_is_cut_and_still_compared_whole():
    values = "x" * 200, "x" * 199 + "y"
    told = disagreement([host("a", 0, names=values[0]), host("b", 1, names=values[1])])
    assert told == f"names: {'x' * 77}... on a (rank 0), {'x' * 77}... on b (rank 1)"


def alone_on_its_host(world):
    return replace(world, local_rank=0, local_size=1)


def agree_on(world, of_ranks):
    agree(alone_on_its_host(world), lambda: of_ranks[world.rank], "Install the same")


@pytest.mark.distributed
def test_a_rank_that_is_told_another_hash_ends_all_ranks_with_the_same_line():
    told = [
        {"code": "aaaa", "torch": "2.13.0"},
        {"code": "aaaa", "torch": "2.13.0"},
        {"code": "bbbb", "torch": "2.13.0"},
    ]
    outcomes = outcomes_on_ranks(3, agree_on, told)
    assert [type(outcome) for outcome in outcomes] == [ConfigError] * 3
    line = f"code: aaaa on {HERE} (rank 0), bbbb on {HERE} (rank 2). Install the same"
    assert [str(outcome) for outcome in outcomes] == [line] * 3
    assert run_on_ranks(3, agree_on, told[:1] * 3) == [None] * 3


def count_on_one_host(world):
    calls = []
    agree(world, lambda: calls.append(1) or {}, "")
    return len(calls)


@pytest.mark.distributed
def test_on_one_host_nothing_is_looked_up():
    assert run_on_ranks(2, count_on_one_host) == [0, 0]


def look_from(world, folders):
    os.chdir(folders[world.rank])
    check_is_shared(alone_on_its_host(world), Path("run"))


@pytest.mark.distributed
def test_a_run_folder_that_one_host_does_not_see_is_refused_on_all_and_left_as_it_was(tmp_path):
    for name in ("shared", "own"):
        (tmp_path / name / "run").mkdir(parents=True)
    outcomes = outcomes_on_ranks(2, look_from, [tmp_path / "shared", tmp_path / "own"])
    assert [type(outcome) for outcome in outcomes] == [ConfigError] * 2
    for outcome in outcomes:
        assert str(outcome).startswith(
            f"--run.dir run: {HERE} (rank 1) does not see what {HERE} (rank 0) writes there, and every rank"
        )
    assert run_on_ranks(2, look_from, [tmp_path / "shared"] * 2) == [None, None]
    assert [*(tmp_path / "shared" / "run").iterdir()] == []
