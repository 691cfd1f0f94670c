"""The files of a run folder, and a trained run opened unsharded in one process."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from trainer.atomic_write import write_text
from trainer.batching.tower_inputs import (
    USER_SEQUENCE_TIMES,
    Inputs,
    dense_widths,
    looked_up,
    open_inputs,
    save_inputs,
)
from trainer.config.parser import config_text, read_config
from trainer.config.resolved import ResolvedConfig, is_open, resolve
from trainer.config.resume import LAUNCH, PATHS, RUNS, evaluated_config, launch_id
from trainer.config.schema import Config
from trainer.dataset.dataset import Dataset
from trainer.dataset.vocabulary import Vocabulary, copy_vocabulary, open_vocabulary
from trainer.distributed.world import World
from trainer.errors import CheckpointError, ConfigError
from trainer.evaluation.evaluator import Evaluation
from trainer.facts.histories import history_spec
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
    has_checkpoint,
    newest,
)
from trainer.runs.data_digest import data_digests
from trainer.runs.resume import resume_command

PLAN, RECORDS, DATA = "plan.json", "metrics.jsonl", "data.json"
WARM_START, OLD_WARM_START = "warm_start.json", "growth.json"
"""File of what was taken over from an earlier run, and its name in older run folders."""
DIGESTED = {
    "train": "training interactions",
    "validation": "validation interactions",
    "test": "held-out interactions",
    "attributes": "attributes or titles",
    "numbers": "attributes that are numbers or vectors",
}
"""Name, in messages, of the data that each digest covers."""
LEARNED, CLOSED = "learned", "closed"
USER_INPUTS, ITEM_INPUTS = "user_inputs.npz", "item_inputs.npz"


@dataclass(frozen=True)
class TrainedRun:
    """A run's unsharded towers on this process's CPU.

    Attributes:
        tower_pairs: Towers with weights and inputs; the learned pair comes first.
        vocabulary: What rows of their tables stand for.
    """

    tower_pairs: list[TowerPair]
    vocabulary: Vocabulary


def refuse_finished_run(config: Config) -> None:
    """Refuse the folder of a finished run.

    Raises:
        ConfigError: `run.dir` is one.
    """
    run = Path(config.run.dir or "")
    if config.run.dir and (run / METRICS).exists():
        raise ConfigError(f"--run.dir {run}: holds a finished run. Name another folder, or remove this one")


def run_folder(config: Config) -> Path:
    """Return the run folder: a new one, or that of an unfinished run.

    Raises:
        ConfigError: The run is finished, or the folder cannot be made.
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
    """Make `folder`, with a number after its name if another training of the same second has made it."""
    number, name = 1, folder.name
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}")


def write_config(run: Path, config: Config) -> None:
    """Write the configuration of a run, with paths in full, so that it can be read from any folder."""
    data = config.data
    paths = {name: getattr(data, name) for name in PATHS}
    full: dict[str, Any] = {
        name: str(Path(path).absolute()) for name, path in paths.items() if path is not None
    }
    for name in ("user_vectors", "item_vectors"):
        full[name] = {vector: str(Path(path).absolute()) for vector, path in getattr(data, name).items()}
    plan = str(Path(config.sharding.plan).absolute()) if config.sharding.plan else None
    sharding = replace(config.sharding, plan=plan)
    write_text(run / CONFIG, config_text(replace(config, data=replace(data, **full), sharding=sharding)))


def describe_run(
    run: Path, config: ResolvedConfig, dataset: Dataset, plan: Plan, tower_pairs: Sequence[TowerPair]
) -> None:
    """Write what readers of the run need: configuration, plan, vocabulary, digests of data, and inputs."""
    save_plan(plan, run / PLAN)
    copy_vocabulary(dataset, run)
    write_text(run / DATA, json.dumps(data_digests(dataset), indent=1) + "\n")
    for name, pair in zip((LEARNED, CLOSED), tower_pairs, strict=False):
        save_inputs(run / f"{name}_{USER_INPUTS}", pair.user_inputs)
        save_inputs(run / f"{name}_{ITEM_INPUTS}", pair.item_inputs)
    # The run holds the plan itself: the file may be gone, and another number of ranks needs another plan.
    write_config(run, replace(config, sharding=replace(config.sharding, plan=None)))


@contextmanager
def locked(run: Path, world: World) -> Iterator[None]:
    """Lock the run folder for one training.

    Raises:
        ConfigError: Another training has locked it; raised on every rank.
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
    same = before.item_ids.equals(dataset.item_ids)
    if dataset.shares is None:  # else this host has some users alone, and the digests are of all
        same = (
            same
            and before.user_ids.equals(dataset.user_ids)
            and np.array_equal(before.seen.offsets, seen.offsets)
            and np.array_equal(before.seen.values, seen.values)
        )
    changed = [] if same else ["users, items or interactions before the test part"]
    if same and (digests := _read_digests(run)):
        now = data_digests(dataset)
        changed = [DIGESTED[name] for name, digest in digests.items() if now.get(name) != digest]
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
    """Remove records of steps that will be trained again, and a record that was cut off."""
    path, remaining = run / RECORDS, []
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):
            if json.loads(line)["step"] <= step:
                remaining.append(f"{line}\n")
    if path.exists():
        write_text(path, "".join(remaining))


def run_config(run: Path, options: Sequence[str] = ()) -> ResolvedConfig:
    """Return a run's configuration, with what the options of an evaluation change.

    Raises:
        CheckpointError: The folder is not a run folder, or the run's settings are still being chosen.
        ConfigError: An option is none that an evaluation takes.
    """
    check_is_run(run)
    config = evaluated_config(run / CONFIG, options) if options else read_config(run / CONFIG)
    if is_open(config) and not has_checkpoint(run):
        raise CheckpointError(
            f"{run}: its settings are not chosen yet, so that it has no weights. Go on with: "
            f"{resume_command(run)}"
        )
    return resolve(config)


def open_run(
    run: Path,
    saved: SavedCheckpoint | None = None,
    allocate: Callable[[CombinedTowers], object] | None = None,
) -> TrainedRun:
    """Open a run's unsharded towers from its newest checkpoint.

    Args:
        run: Run folder.
        saved: Its newest checkpoint, if that has been found already.
        allocate: Gives towers on the meta device their memory, elsewhere than in RAM for instance.

    Raises:
        CheckpointError: The folder is not a run folder, or holds no undamaged checkpoint.
    """
    config = run_config(run)
    saved = saved or newest(run, finished_step(run))
    vocabulary = open_vocabulary(run)
    tables = {table["name"]: table for table in _tables(run)}
    rows = {name: table["rows"] for name, table in tables.items()}
    users, items = run_inputs(run, LEARNED)
    learned = make_towers(
        config,
        {table: rows[table] for table in looked_up(users)},
        {table: rows[table] for table in looked_up(items)},
        vocabulary.item_name,
        table_dtype="float32",  # holds every float16 exactly, and needs no special kernel to be served
        user_dense=dense_widths(users),
        item_dense=dense_widths(items),
        timed=USER_SEQUENCE_TIMES in users,
    )
    closed = None
    if HISTORY in tables:
        ordered = history_spec(config.model.history).ordered
        closed = make_closed_towers(
            vocabulary.item_name,
            rows[HISTORY],
            tables[HISTORY]["dim"],
            history_length=config.model.history_length if ordered else 0,
        )
    model = CombinedTowers(learned, closed)
    if allocate is None:
        model.to_empty(device=torch.device("cpu"))
    else:
        allocate(model)
    load(saved.folder, model)
    tower_pairs = [TowerPair(model.learned, users, items)]
    if model.closed is not None:
        tower_pairs.append(TowerPair(model.closed, *run_inputs(run, CLOSED)))
    return TrainedRun(tower_pairs, vocabulary)


def run_inputs(run: Path, towers: str) -> tuple[Inputs, Inputs]:
    """Return what users and items look up in the towers `LEARNED` or `CLOSED`."""
    return open_inputs(run / f"{towers}_{USER_INPUTS}"), open_inputs(run / f"{towers}_{ITEM_INPUTS}")


def first_user(run: Path) -> int | str:
    """Return the raw id of a run's first user."""
    return open_vocabulary(run).user_ids[0].as_py()


def weight_bytes(run: Path) -> int:
    """Return the bytes of a run's tables in float32."""
    return sum(table["rows"] * table["dim"] * 4 for table in _tables(run))


def _tables(run: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((run / PLAN).read_text())["tables"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{run / PLAN}: cannot be read ({error}). Train anew elsewhere") from None


def warm_start_report(run: Path) -> dict[str, Any]:
    """Return what a run took over from the run that it began with; empty if it began with none."""
    for name in (WARM_START, OLD_WARM_START):
        if (run / name).exists():
            return json.loads((run / name).read_text())
    return {}


def evaluation_report(run: Path, step: int, evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as `metrics.json` and `evaluate --json` give it, without `per_user`."""
    protocol = {name: getattr(evaluation, name) for name in ("split", "seen", "users", "items")}
    beyond = {"beyond": evaluation.beyond} if evaluation.beyond else {}
    left_out = {"left_out": evaluation.left_out} if evaluation.left_out else {}
    tied = {"tied": evaluation.tied} if evaluation.mostly_tied else {}
    ratings = {"ratings": asdict(evaluation.ratings)} if evaluation.ratings else {}
    return {
        "run": str(run),
        "step": step,
        **protocol,
        **left_out,
        **tied,
        **evaluation.rankers,
        **beyond,
        **ratings,
    }
