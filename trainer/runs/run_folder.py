"""The files of a run folder, and a trained run opened whole in one process."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from trainer.atomic_write import write_text
from trainer.batching.tower_inputs import Inputs, open_inputs, save_inputs
from trainer.config.parser import config_text, read_config
from trainer.config.resolved import ResolvedConfig, resolve
from trainer.config.resume import LAUNCH, RUNS, launch_id
from trainer.config.schema import Config
from trainer.dataset.dataset import Dataset
from trainer.dataset.vocabulary import Vocabulary, copy_vocabulary, open_vocabulary
from trainer.distributed.world import World
from trainer.errors import CheckpointError, ConfigError
from trainer.evaluation.evaluator import Evaluation
from trainer.model.builder import HISTORY, make_closed_towers, make_towers
from trainer.model.retriever import CombinedTowers, TowerPair
from trainer.planning.plan import Plan, save_plan
from trainer.runs.checkpoint import load
from trainer.runs.checkpoint_store import (
    CONFIG,
    METRICS,
    SavedCheckpoint,
    check_is_run,
    finished_step,
    newest,
)
from trainer.runs.data_digest import data_digests

PLAN, RECORDS, GROWTH, DATA = "plan.json", "metrics.jsonl", "growth.json", "data.json"
DIGESTED = {
    "train": "training interactions",
    "validation": "validation interactions",
    "test": "held-out interactions",
    "attributes": "attributes or titles",
}
"""What each digest of a run's data is of, as messages name it."""
LEARNED, CLOSED = "learned", "closed"
USER_INPUTS, ITEM_INPUTS = "user_inputs.npz", "item_inputs.npz"


@dataclass(frozen=True)
class TrainedRun:
    """A run's towers with their weights and inputs, unsharded on this process's CPU, learned ones first."""

    tower_pairs: list[TowerPair]
    vocabulary: Vocabulary


def refuse_finished_run(config: Config) -> None:
    """Refuse the folder of a run that is finished.

    Raises: ConfigError naming the folder.
    """
    run = Path(config.run.dir or "")
    if config.run.dir and (run / METRICS).exists():
        raise ConfigError(f"--run.dir {run}: holds a finished run. Name another folder, or remove this one")


def run_folder(config: Config) -> Path:
    """The run folder: a new one, or that of an unfinished run.

    Raises: ConfigError if the run is finished, or the folder cannot be made.
    """
    refuse_finished_run(config)
    name = f"{config.data.name}-{config.loss.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = Path(config.run.dir) if config.run.dir else RUNS / name
    try:
        if not config.run.dir:
            run = _numbered(run)
            write_text(run / LAUNCH, launch_id() or "")
            return run
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--run.dir {run}: cannot be made ({error.strerror}). Name another folder"
        ) from error
    return run


def _numbered(folder: Path) -> Path:
    """`folder`, or with a number behind its name where a training of the same second has made it."""
    number, name = 1, folder.name
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}")


def describe_run(
    run: Path, config: ResolvedConfig, dataset: Dataset, plan: Plan, tower_pairs: Sequence[TowerPair]
) -> None:
    """Write what a reader of the run needs: configuration, plan, vocabulary and inputs.

    Paths are written in full, so that the run can be measured from any folder.
    """
    data = config.data
    names = ("root", "cache", "interactions", "held_out", "users", "items")
    paths = {name: getattr(data, name) for name in names}
    full: dict[str, Any] = {
        name: str(Path(path).absolute()) for name, path in paths.items() if path is not None
    }
    save_plan(plan, run / PLAN)
    copy_vocabulary(dataset, run)
    write_text(run / DATA, json.dumps(data_digests(dataset), indent=1) + "\n")
    for name, part in zip((LEARNED, CLOSED), tower_pairs, strict=False):
        save_inputs(run / f"{name}_{USER_INPUTS}", part.user_inputs)
        save_inputs(run / f"{name}_{ITEM_INPUTS}", part.item_inputs)
    # The run has the plan itself: the file may be gone, and other ranks need another plan.
    sharding = replace(config.sharding, plan=None)
    write_text(run / CONFIG, config_text(replace(config, data=replace(data, **full), sharding=sharding)))


@contextmanager
def owned(run: Path, world: World) -> Iterator[None]:
    """The run folder for one training alone.

    Raises: ConfigError, on every rank, if another training has it.
    """
    lock = FileLock(run / ".lock", timeout=0)

    def take() -> None:
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(f"--run.dir {run}: another training is at work in it. Name another") from None

    world.on_first(take)
    try:
        yield
    finally:
        if lock.is_locked:
            (run / ".lock").unlink(missing_ok=True)
            lock.release()


def check_same_data(run: Path, dataset: Dataset) -> None:
    """Refuse data that are not those of the training.

    Run folders without digests, as older versions left them, are compared by their vocabulary alone.

    Raises:
        CheckpointError: They have changed.
    """
    before, seen = open_vocabulary(run), dataset.seen("test")
    same = (
        before.user_ids.equals(dataset.user_ids)
        and before.item_ids.equals(dataset.item_ids)
        and np.array_equal(before.seen.offsets, seen.offsets)
        and np.array_equal(before.seen.values, seen.values)
    )
    changed = [] if same else ["users, items or interactions before the test part"]
    if same and (digests := _read_digests(run)):
        now = data_digests(dataset)
        changed = [DIGESTED[name] for name, digest in digests.items() if now[name] != digest]
    if changed:
        raise CheckpointError(
            f"{run}: its data have changed since the training ({', '.join(changed)}). Bring the files back "
            "as they were, or train anew"
        )


def _read_digests(run: Path) -> dict[str, str]:
    """Return a run's digests of its data; empty where the run is from before there were any."""
    path = run / DATA
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). Bring it back, or train anew") from None


def drop_later_records(run: Path, step: int) -> None:
    """Remove what was recorded of steps that will be made again, and what was cut off."""
    path, kept = run / RECORDS, []
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):
            if json.loads(line)["step"] <= step:
                kept.append(f"{line}\n")
    if path.exists():
        write_text(path, "".join(kept))


def run_config(run: Path) -> ResolvedConfig:
    """Configuration of a run.

    Raises: CheckpointError if the folder is no run.
    """
    check_is_run(run)
    return resolve(read_config(run / CONFIG))


def open_run(run: Path, saved: SavedCheckpoint | None = None) -> TrainedRun:
    """A run's towers, whole, from its newest checkpoint.

    Args: saved: that checkpoint, where it has been found already.
    Raises: CheckpointError if the folder is no run, or holds no whole checkpoint.
    """
    config = run_config(run)
    saved = saved or newest(run, finished_step(run))
    vocabulary = open_vocabulary(run)
    tables = {table["name"]: table for table in _tables(run)}
    rows = {name: table["rows"] for name, table in tables.items()}
    users, items = run_inputs(run, LEARNED)
    learned = make_towers(
        config,
        {table: rows[table] for table in users},
        {table: rows[table] for table in items},
        vocabulary.item_name,
        table_dtype="float32",  # which holds every float16 exactly, and is served without a kernel of its own
    )
    closed = None
    if HISTORY in tables:
        closed = make_closed_towers(vocabulary.item_name, rows[HISTORY], tables[HISTORY]["dim"])
    model = CombinedTowers(learned, closed).to_empty(device=torch.device("cpu"))
    load(saved.folder, model)
    tower_pairs = [TowerPair(model.learned, users, items)]
    if model.closed is not None:
        tower_pairs.append(TowerPair(model.closed, *run_inputs(run, CLOSED)))
    return TrainedRun(tower_pairs, vocabulary)


def run_inputs(run: Path, part: str) -> tuple[Inputs, Inputs]:
    """What users and items look up in the towers of a part."""
    return open_inputs(run / f"{part}_{USER_INPUTS}"), open_inputs(run / f"{part}_{ITEM_INPUTS}")


def first_user(run: Path) -> int | str:
    """Raw id of a run's first user."""
    return open_vocabulary(run).user_ids[0].as_py()


def weight_bytes(run: Path) -> int:
    """Bytes of all of a run's tables."""
    return sum(table["rows"] * table["dim"] * 4 for table in _tables(run))


def _tables(run: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((run / PLAN).read_text())["tables"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{run / PLAN}: cannot be read ({error}). Train anew elsewhere") from None


def growth_report(run: Path) -> dict[str, Any]:
    """What a run began with, where it began with another one's vectors."""
    path = run / GROWTH
    return json.loads(path.read_text()) if path.exists() else {}


def evaluation_report(run: Path, step: int, evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as `metrics.json` and `evaluate --json` give it; `per_user` is left out."""
    protocol = {name: getattr(evaluation, name) for name in ("split", "seen", "users", "items")}
    beyond = {"beyond": evaluation.beyond} if evaluation.beyond else {}
    left_out = {"left_out": evaluation.left_out} if evaluation.left_out else {}
    return {"run": str(run), "step": step, **protocol, **left_out, **evaluation.rankers, **beyond}
