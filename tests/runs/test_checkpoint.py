"""Checkpoints are written whole or not at all, and read back into sharded or plain towers."""

import errno
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint

from tests import layouts
from trainer.distributed.world import World, join_world
from trainer.errors import CheckpointError, SaveError
from trainer.model.towers import TwoTowers
from trainer.runs import checkpoint
from trainer.runs.checkpoint import load, save
from trainer.runs.checkpoint_store import newest, prune
from trainer.runs.validation_history import SavedProgress, Validation
from trainer.sharding.table_values import fill_tables, normal_block

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
    assert (newest(tmp_path).folder, newest(tmp_path).step) == (folder, 7)
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
    saved = newest(tmp_path)
    assert saved.step == 100
    assert_holds(opened(saved.folder), 100)


def test_saving_a_step_again_replaces_its_checkpoint(world: World, tmp_path: Path) -> None:
    save(tmp_path, 5, sharded(1), world)
    assert_holds(opened(save(tmp_path, 5, sharded(2), world)), 2)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def measured(*figures: float) -> SavedProgress:
    """A training that was validated after step 1, 2 and so on."""
    return SavedProgress(0.0, [Validation(step, 0.0, figure) for step, figure in enumerate(figures, start=1)])


def test_the_last_with_states_and_the_best_stay(world: World, tmp_path: Path) -> None:
    figures = [0.1, 0.5, 0.3, 0.5, 0.2]
    for step in range(1, 6):
        states = {} if step in (1, 3) else None
        save(tmp_path, step, sharded(step), world, states, measured(*figures[:step]))
    (tmp_path / "checkpoints" / "step-000000006.partial").mkdir()
    # By figure: steps 2 and 4 alike, then 3; with states: 1 and 3.
    prune(tmp_path, keep_last=1, keep_best=2)
    assert kept(tmp_path) == ["step-000000002", "step-000000003", "step-000000004"]
    prune(tmp_path, keep_last=1, keep_best=1)
    assert kept(tmp_path) == ["step-000000002", "step-000000003"]
    assert_holds(opened(tmp_path / "checkpoints" / "step-000000002"), 2)


def kept(run: Path) -> list[str]:
    return sorted(folder.name for folder in (run / "checkpoints").iterdir())


def test_a_checkpoint_records_how_far_the_training_was(world: World, tmp_path: Path) -> None:
    progress = SavedProgress(1.25, [Validation(3, 0.5, 0.1), Validation(6, 1.0, 0.3)])
    save(tmp_path, 6, sharded(1), world, {}, progress)
    saved = newest(tmp_path)
    assert (saved.step, saved.resumable, saved.progress) == (6, True, progress)


def test_the_preferred_one_is_opened_unless_it_is_damaged(world: World, tmp_path: Path, capsys) -> None:
    for step in (3, 5, 8):
        save(tmp_path, step, sharded(step), world)
    assert newest(tmp_path, preferred=5).step == 5
    (tmp_path / "checkpoints" / "step-000000005" / ".metadata").unlink()
    assert newest(tmp_path, preferred=5).step == 8
    assert "step-000000008 is taken in its place" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["replace", "fsync"])
def test_a_checkpoint_that_cannot_be_published_leaves_the_one_before(
    world: World, tmp_path: Path, monkeypatch, place: str
) -> None:
    first = save(tmp_path, 5, sharded(1), world)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint.os, place, disk_full)
        with pytest.raises(SaveError, match="No space left on device"):
            save(tmp_path, 7, sharded(2), world)
    assert newest(tmp_path).folder == first
    assert kept(tmp_path) == [first.name]
    assert_holds(opened(first), 1)


def disk_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_unfinished_save_is_not_a_checkpoint(world: World, tmp_path: Path) -> None:
    folder = save(tmp_path, 5, sharded(1), world)
    unfinished = folder.with_name("step-000000009.partial")
    unfinished.mkdir()
    (unfinished / "state.json").write_text(json.dumps({"step": 9}))
    folder.with_name("step-000000008").mkdir()
    assert newest(tmp_path).folder == folder
    assert_holds(opened(save(tmp_path, 9, sharded(2), world)), 2)
    assert newest(tmp_path).step == 9


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


class _Stranger:
    """A pickle of this touches a file when it is opened."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def test_malicious_metadata_run_nothing(world: World, tmp_path: Path) -> None:
    folder = save(tmp_path, 5, sharded(1), world)
    touched = tmp_path / "touched"
    (folder / ".metadata").write_bytes(pickle.dumps(_Stranger(touched)))
    pickle.loads((folder / ".metadata").read_bytes())
    assert touched.exists()  # so it would
    touched.unlink()
    with pytest.raises(CheckpointError, match=r"its metadata name pathlib.Path.touch, which no tensor needs"):
        opened(folder)
    assert not touched.exists()


def test_an_entry_that_is_not_a_tensor_is_not_opened(world: World, tmp_path: Path) -> None:
    # The library opens such entries with torch.load and weights_only=False.
    folder = tmp_path / "foreign"
    distributed_checkpoint.save({"log_temperature": {"a": 1}}, checkpoint_id=folder)
    with pytest.raises(CheckpointError, match="BytesStorageMetadata, which no tensor needs"):
        opened(folder)
