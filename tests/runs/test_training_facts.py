"""What a training leaves for its report, on one rank, on two, and after it was resumed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests import worlds
from tests.distributed.ranks import run_on_ranks
from trainer.cli import main
from trainer.distributed.world import World
from trainer.runs.training_facts import (
    Settings,
    measure_ranks,
    read_ranks,
    read_settings,
    write_ranks,
    write_settings,
)


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert (read_settings(tmp_path), read_ranks(tmp_path)) == (None, [])  # a run of an older version
    settings = Settings({"model.dim": 8}, {"batches.size": 16}, chosen={"metric": "ndcg@10"})
    write_settings(tmp_path, settings)
    write_ranks(tmp_path, [{"rank": 0, "memory": 1.0}])
    assert (read_settings(tmp_path), read_ranks(tmp_path)) == (settings, [{"rank": 0, "memory": 1.0}])
    for name in ("settings.json", "ranks.json"):
        (tmp_path / name).write_text("{")
    assert (read_settings(tmp_path), read_ranks(tmp_path)) == (None, [])


def test_a_training_that_is_resumed_keeps_what_the_first_process_was_asked_for(tmp_path: Path) -> None:
    run = worlds.trained(
        tmp_path, *worlds.options(tmp_path, *worlds.checkerboard()), "--run.save_every", "40"
    )
    before = read_settings(run)
    assert before is not None
    assert before.given["model.dim"] == 8
    assert before.by_size["loss.candidates"] == "catalogue"
    assert (before.by_trial, before.chosen) == ({}, {})
    assert before.fixed["model.low_rank"] == 0  # too few interactions for trials
    before = replace(before, chosen={"metric": "ndcg@10"})  # as if there had been trials
    write_settings(run, before)
    (run / "metrics.json").unlink()
    assert main(["train", "--run.dir", str(run), "--run.epochs", "30"]) == 0
    assert read_settings(run) == before
    assert json.loads((run / "metrics.json").read_text())["chosen"] == before.chosen
    (rank,) = json.loads((run / "ranks.json").read_text())
    assert rank["rank"] == 0
    assert 1e8 < rank["memory"] < 1e11  # bytes of a process that has imported torch


@pytest.mark.distributed
def test_the_first_rank_knows_the_memory_of_all() -> None:
    first, second = run_on_ranks(2, _measured)
    assert second is None
    assert [each["rank"] for each in first] == [0, 1]
    assert all(1e8 < each["memory"] < 1e11 for each in first)


def _measured(world: World) -> list[dict[str, float]] | None:
    return measure_ranks(world)
