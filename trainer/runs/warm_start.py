"""A training that begins with what an earlier run learned, on data that have grown or shrunk since.

Rows of tables are matched by what they stand for: raw ids and values of attributes. A row that the earlier
run never trained counts as new, and so do its optimizer's states.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.optim.keyed import CombinedOptimizer

from trainer.batching.tower_inputs import USER, USER_HISTORY, Inputs
from trainer.config.resume import check_shape
from trainer.config.schema import Config
from trainer.dataset.dataset import Dataset, Interactions
from trainer.dataset.prepare import prepare_data
from trainer.dataset.vocabulary import Vocabulary, open_vocabulary
from trainer.distributed.world import World
from trainer.runs.checkpoint import entries, read_entry
from trainer.runs.checkpoint_store import SavedCheckpoint, finished_step, has_checkpoint, newest
from trainer.runs.retained_ids import extend, places
from trainer.runs.run_folder import LEARNED, run_config, run_inputs
from trainer.sharding.model_state import full_shape, local_shards, table_name, whole_state
from trainer.sharding.optimizer_state import PREFIX, UNTRAINED, create_states, optimizer_state, set_step

ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Origin:
    """An earlier run: its configuration, newest checkpoint, and what rows of its tables stand for."""

    run: Path
    config: Config
    checkpoint: SavedCheckpoint
    vocabulary: Vocabulary
    user_inputs: Inputs
    item_inputs: Inputs

    @property
    def optimizer_steps(self) -> int:
        """Steps that its optimizers have taken, those of runs before it included."""
        return self.checkpoint.step + self.checkpoint.progressed.origin_steps


@dataclass(frozen=True)
class Matched:
    """How many ids a run and a data set share, how many are new, and what became of the run's others."""

    known: int
    new: int
    dropped: int
    kept: int


@dataclass(frozen=True)
class WarmStart:
    """What a training takes over from an earlier run.

    Attributes:
        run: the earlier run.
        users, items: how their ids meet.
        states: whether the optimizer's states are taken over; `why_not`: the reason, in words.
        steps: steps that the optimizer's states count already, 0 without them.
        told: interactions of the measured part, of `measured`, that the earlier run had before its test part.
    """

    run: str
    users: Matched
    items: Matched
    states: bool
    why_not: str
    steps: int
    told: int
    measured: int

    def report(self) -> dict[str, Any]:
        """The same as `metrics.json` gives it."""
        return {"from": asdict(self)}


def open_origin(run: Path, config: Config, world: World) -> Origin:
    """An earlier run that a training under `config` can begin with, its files verified on rank 0.

    Raises: CheckpointError if the run is none, damaged, or has no checkpoint; ConfigError if the model
        would have another shape.
    """
    then = run_config(run)
    check_shape(run, then, config)
    checkpoint = world.on_first(lambda: newest(run, finished_step(run)))
    return Origin(run, then, checkpoint, open_vocabulary(run), *run_inputs(run, LEARNED))


def prepare_with_kept(config: Config, run: Path | None) -> Path:
    """Folder of the prepared data, with what is kept of an earlier run where the configuration says so.

    Args: run: the training's own folder, if it has one: with a checkpoint, the earlier run may be gone.
    Raises: CheckpointError, DataError if the run or the data are at fault.
    """
    folder = prepare_data(config.data)
    if config.run.removed == "drop" or config.run.origin is None:
        return folder
    source = run if run and has_checkpoint(run) else Path(config.run.origin)
    newest(source)  # it is as it was written
    return extend(folder, open_vocabulary(source), *run_inputs(source, LEARNED))


def take_over(
    origin: Origin, config: Config, dataset: Dataset, model: nn.Module, optimizer: CombinedOptimizer
) -> WarmStart:
    """Give known users, items and attribute values their vectors and optimizer's states; others stay as new.

    Args: model, optimizer: with initial values, before the first step, on every rank alike.
    """
    users = places(dataset.user_ids, origin.vocabulary.user_ids)
    items = places(dataset.item_ids, origin.vocabulary.item_ids)
    rows = _rows_by_table(origin, config, dataset, users, items)
    kept = entries(origin.checkpoint.folder)
    for key, value in whole_state(model).items():
        if _is_taken_over(key, origin.config, config):
            _fill(value, origin, _then(key, origin, dataset), rows.get(str(table_name(key))))
    why_not = _states(origin, config, dataset, model, optimizer, _without_kept(rows, dataset), kept)
    measured: Interactions = getattr(dataset, config.evaluation.split)
    return WarmStart(
        run=str(origin.run),
        users=_matched(users, origin.vocabulary.user_ids, int(dataset.report.get("kept_users", 0))),
        items=_matched(items, origin.vocabulary.item_ids, int(dataset.report.get("kept_items", 0))),
        states=not why_not,
        why_not=why_not,
        steps=0 if why_not else origin.optimizer_steps,
        told=_told(origin.vocabulary, users[measured.users], items[measured.items]),
        measured=len(measured),
    )


def _states(
    origin: Origin,
    config: Config,
    dataset: Dataset,
    model: nn.Module,
    optimizer: CombinedOptimizer,
    rows: dict[str, np.ndarray],
    kept: dict[str, torch.Size],
) -> str:
    """Take over the optimizer's states and steps, all or none; the reason against it, or an empty text.

    Adam divides its moments by 1 - beta^step, as they have grown from zero for that many steps. The step is
    the table's, not the row's: right for known rows, an approximation for new ones, whose moments are zero.
    With betas of 0.9 and 0.999 these move 3.2 times as far in their first step as from step 0, 6.5 times in
    their tenth, 3.2 times in their hundredth and 1.3 times in their thousandth.
    """
    before, now = origin.config.optimizer.name, config.optimizer.name
    if before != now:
        return f"{origin.run} was trained with {before}"
    if not any(key.startswith(PREFIX) for key in kept):
        return f"the last checkpoint of {origin.run} keeps none"
    create_states(optimizer)
    states = optimizer_state(model, optimizer, now)
    names = {key: _then(key, origin, dataset) for key in states}
    suit = all(kept.get(names[key], [0, 0])[1:] == full_shape(value)[1:] for key, value in states.items())
    set_step(optimizer, origin.optimizer_steps if suit else 0)
    for key, value in states.items():
        for part, _, _ in local_shards(value):
            part.zero_()  # creating them leaves a trace of a weight decay
        if suit:
            table = table_name(key.removeprefix(PREFIX).rpartition(".")[0])
            _fill(value, origin, names[key], rows.get(str(table)), zeros_are_new=False)
    return "" if suit else f"those of {origin.run} have another shape"


def _without_kept(rows: dict[str, np.ndarray], dataset: Dataset) -> dict[str, np.ndarray]:
    """Without what training does not visit: of a state that is zero, no optimizer moves it."""
    name = dataset.item_name
    kept = {USER: dataset.kept_users, name: dataset.kept_items, f"{name}_bias": dataset.kept_items}
    found = dict(rows)
    for table in kept.keys() & rows.keys():
        found[table] = rows[table].copy()
        found[table][kept[table]] = -1
    return found


def _rows_by_table(
    origin: Origin, config: Config, dataset: Dataset, users: np.ndarray, items: np.ndarray
) -> dict[str, np.ndarray]:
    """Row in the earlier run of every row of a table, -1 where it starts as new; by table."""
    then, name = origin.vocabulary, dataset.item_name
    items = _trained(items, origin.item_inputs[then.item_name])
    trains_reserved = [run.model.item_id_dropout > 0 for run in (origin.config, config)]
    # The row of items that nobody has stands, where it is trained, for any item, and starts so.
    reserved_item = -1 if trains_reserved == [False, True] else len(then.item_ids)
    all_items = np.append(items, reserved_item)
    rows = {USER_HISTORY: items, name: all_items, f"{name}_bias": all_items}
    if USER in origin.user_inputs:
        rows[USER] = np.append(_trained(users, origin.user_inputs[USER]), len(then.user_ids))
    for side, names, features, before in (
        (USER, config.model.user_features, dataset.user_features, then.user_categories),
        (name, config.model.item_features, dataset.item_features, then.item_categories),
    ):
        for feature in names:
            codes = places(features[feature].categories, before[feature])
            rows[f"{side}_{feature}"] = np.append(codes, len(before[feature]))
    return rows


def _trained(rows: np.ndarray, column: Any) -> np.ndarray:
    """`rows` with -1 for ids whose own row nothing looked up."""
    own = np.append(column == np.arange(len(column)), False)
    return np.where(own[rows], rows, -1)


def _matched(places: np.ndarray, before: pa.Array, kept: int) -> Matched:
    found = int(np.count_nonzero(places >= 0))
    return Matched(found - kept, len(places) - found, len(before) - found, kept)


def _is_taken_over(key: str, before: Config, now: Config) -> bool:
    """Whether training changes an entry of the model's state, and did in the earlier run."""
    if key.endswith("log_temperature"):
        return before.model.learn_temperature and now.model.learn_temperature
    return not key.startswith(UNTRAINED)


def _then(key: str, origin: Origin, dataset: Dataset) -> str:
    """The key of the same entry in the earlier run, which may call its items otherwise."""
    before, now = origin.vocabulary.item_name, dataset.item_name
    parts = key.split(".")
    if "candidate" in parts and "embedding_bags" in parts:
        place = parts.index("embedding_bags") + 1
        parts[place] = before + parts[place].removeprefix(now)
    return ".".join(parts)


def _fill(
    value: torch.Tensor | ShardedTensor,
    origin: Origin,
    key: str,
    rows: np.ndarray | None,
    zeros_are_new: bool = True,
) -> None:
    """Overwrite this rank's part of an entry with the earlier run's: known rows, or, without `rows`, all."""
    parts = list(local_shards(value))
    if not parts:
        return
    before = read_entry(origin.checkpoint.folder, key)
    with torch.no_grad():
        for part, first_row, first_column in parts:
            if rows is None:
                part.copy_(before)
                continue
            for start in range(0, len(part), ROWS_AT_ONCE):
                block = part[start : start + ROWS_AT_ONCE]
                places = torch.from_numpy(rows[first_row + start : first_row + start + len(block)])
                known = torch.nonzero(places >= 0).squeeze(1)
                values = before[places[known]]
                if zeros_are_new:  # nobody trained them, and from zero no unit vector learns
                    known, values = known[values.any(1)], values[values.any(1)]
                if values.dim() > 1:
                    values = values[:, first_column : first_column + block.shape[1]]
                block[known.to(block.device)] = values.to(block.device, block.dtype)


def _told(then: Vocabulary, users: np.ndarray, items: np.ndarray) -> int:
    """How many of these pairs, by rows of the earlier run, it had before its test part."""
    both, count = (users >= 0) & (items >= 0), len(then.item_ids)
    owners = np.repeat(np.arange(len(then.user_ids) + 1), then.seen.lengths())
    return int(np.isin(users[both] * count + items[both], owners * count + then.seen.values).sum())
