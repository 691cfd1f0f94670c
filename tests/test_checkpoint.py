"""Checkpoints: written whole or not at all, and read back into sharded or plain towers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import layouts
from trainer.errors import CheckpointError
from trainer.model.towers import TwoTowers
from trainer.parallel.shard import fill_tables, normal_block
from trainer.parallel.world import World, join_world
from trainer.training import checkpoint
from trainer.training.checkpoint import load, newest, save, save_alone

DIM = 4
RATES = {"user": 0.1, "item": 0.1}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join_world("cpu") as joined:
        yield joined


def plain(rows: int = 5, hidden: tuple[int, ...] = (6,), dim: int = DIM) -> TwoTowers:
    torch.manual_seed(1)
    towers = TwoTowers({"user": rows}, {"item": 4}, dim, learn_temperature=True, hidden=list(hidden))
    return towers


def sharded(seed: int, sharding: str = "table_wise") -> torch.nn.Module:
    towers = plain()
    model, _ = layouts.sharded(towers, sharding, "sgd", RATES)
    fill_tables(model, lambda table, rows: normal_block(seed, table, rows, DIM, 1.0))
    torch.nn.init.constant_(model.module.query.dense[-1].bias, float(seed))
    return model


def opened(checkpoint: Path, **options) -> TwoTowers:
    towers = plain(**options).to_empty(device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter.fill_(torch.nan)  # whatever the checkpoint does not fill shows
    load(checkpoint, towers)
    return towers


def assert_holds(towers: TwoTowers, seed: int) -> None:
    for tower, table, rows in ((towers.query, "user", 5), (towers.candidate, "item", 4)):
        expected = normal_block(seed, table, slice(0, 65_536), DIM, 1.0)[:rows]
        assert torch.equal(tower.embeddings.embedding_bags[table].weight.detach(), expected)
    assert towers.query.dense[-1].bias.tolist() == [seed] * DIM
    assert torch.equal(towers.query.dense[0].weight, plain().query.dense[0].weight)
    assert float(towers.log_temperature) == pytest.approx(float(plain().log_temperature))


@pytest.mark.parametrize("sharding", ["table_wise", "column_wise", "data_parallel"])
def test_every_weight_comes_back_into_plain_towers(world: World, tmp_path: Path, sharding: str) -> None:
    folder = save(tmp_path, 7, sharded(3, sharding), world)
    assert newest(tmp_path) == (folder, 7)
    assert_holds(opened(folder), 3)


@pytest.mark.parametrize("sharding", ["table_wise", "column_wise", "data_parallel"])
def test_every_weight_comes_back_into_towers_sharded_in_another_way(
    world: World, tmp_path: Path, sharding: str
) -> None:
    folder = save(tmp_path, 7, sharded(3), world)
    other = sharded(4, sharding)
    load(folder, other)
    again = save(tmp_path, 8, other, world)
    assert_holds(opened(again), 3)


def test_the_newest_is_the_one_of_most_steps(world: World, tmp_path: Path) -> None:
    for step in (9, 10, 100, 2):
        save(tmp_path, step, sharded(step), world)
    folder, step = newest(tmp_path)
    assert step == 100
    assert_holds(opened(folder), 100)


def test_saving_a_step_again_replaces_it(world: World, tmp_path: Path) -> None:
    save(tmp_path, 5, sharded(1), world)
    assert_holds(opened(save(tmp_path, 5, sharded(2), world)), 2)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_saving_alone_removes_the_others_once_it_is_whole(world: World, tmp_path: Path, monkeypatch) -> None:
    first = save_alone(tmp_path, 5, sharded(1), world)
    first.with_name("step-000000006.partial").mkdir()
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint.os, "replace", disk_full)
        with pytest.raises(OSError, match="no space"):
            save_alone(tmp_path, 7, sharded(2), world)
    assert newest(tmp_path) == (first, 5)
    assert_holds(opened(first), 1)
    second = save_alone(tmp_path, 7, sharded(2), world)
    assert list((tmp_path / "checkpoints").iterdir()) == [second]
    assert_holds(opened(second), 2)


def disk_full(*_):
    raise OSError("no space")


def test_what_was_not_finished_is_no_checkpoint(world: World, tmp_path: Path) -> None:
    folder = save(tmp_path, 5, sharded(1), world)
    unfinished = folder.with_name("step-000000009.partial")
    unfinished.mkdir()
    (unfinished / "state.json").write_text(json.dumps({"step": 9}))
    folder.with_name("step-000000008").mkdir()
    assert newest(tmp_path) == (folder, 5)
    assert_holds(opened(save(tmp_path, 9, sharded(2), world)), 2)
    assert newest(tmp_path)[1] == 9


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run folder"):
        newest(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        newest(tmp_path)


@pytest.mark.parametrize(
    "options", [{"rows": 6}, {"rows": 4}, {"dim": 8}, {"hidden": (6, 6)}, {"hidden": (7,)}]
)
def test_a_checkpoint_of_another_model_is_refused_in_one_line(
    world: World, tmp_path: Path, options: dict
) -> None:
    folder = save(tmp_path, 5, sharded(1), world)
    with pytest.raises(CheckpointError, match="does not hold this model") as error:
        opened(folder, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pattern", ["*.distcp", ".metadata"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_checkpoint_is_refused_in_one_line(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, pattern: str, damage: str
) -> None:
    folder = save(tmp_path, 5, sharded(1), world)
    (file,) = folder.glob(pattern)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-200] if damage == "truncated" else b"")
    with pytest.raises(CheckpointError) as error:
        opened(folder)
    assert str(folder) in str(error.value)
    assert "damaged" in str(error.value)
    assert "Traceback" not in str(error.value)
    assert "\n" not in str(error.value)
    # Nor does the library print tracebacks of its own, which it does through the root logger.
    assert not [record for record in caplog.records if record.name == "root"]
