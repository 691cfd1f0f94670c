"""Warm starts: a training that begins with an earlier run's weights, on data that have changed since.

Rows of tables are matched by raw ids and attribute values. A row that the earlier run never trained counts as
new, and so do its optimizer states. Tables into which ids are hashed are taken over whole: the rows of an id
depend on nothing but their number.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.batching.tower_inputs import (
    USER,
    USER_HISTORY,
    context_table,
    dense_widths,
    expected_bias,
    expected_biases,
)
from trainer.config.effects import expects_bias
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config
from trainer.dataset.dataset import Dataset, Interactions
from trainer.dataset.vocabulary import stand_in
from trainer.errors import ConfigError
from trainer.runs.checkpoint import entries, read_entry
from trainer.sharding.model_state import full_shape, local_shards, table_name, whole_state
from trainer.sharding.optimizer_state import PREFIX, UNTRAINED, create_states, optimizer_state, set_step
from trainer.sharding.private_api import ShardedTensor
from trainer.warm_start.news import News, news_of
from trainer.warm_start.origin import Origin
from trainer.warm_start.retained_ids import trained_items
from trainer.warm_start.retained_rows import rows_in

ROWS_AT_ONCE = 65_536
BIAS_SLOPE = "candidate.bias_slope"


@dataclass(frozen=True)
class Matched:
    """Counts of ids of an earlier run and of a data set.

    Attributes:
        known: Ids of both.
        new: Ids of the data set alone.
        dropped: Ids of the earlier run alone, which are dropped.
        kept: Ids of the earlier run alone, which are retained.
    """

    known: int
    new: int
    dropped: int
    kept: int


@dataclass(frozen=True)
class WarmStart:
    """What a training took over from an earlier run.

    Attributes:
        run: The earlier run.
        users: How many of its users are known.
        items: How many of its items are known.
        states: Whether optimizer states were taken over.
        why_not: Why they were not; empty if they were.
        steps: Optimizer steps that were taken over with them.
        told: Held-out interactions that the earlier run has already trained or validated on (leakage), but
            for repeats, which this training knows too.
        measured: Held-out interactions.
        news: What is new to the earlier run.
    """

    run: str
    users: Matched
    items: Matched
    states: bool
    why_not: str
    steps: int
    told: int
    measured: int
    news: News

    def report(self) -> dict[str, Any]:
        """Return the fields as `metrics.json` holds them."""
        return {"from": asdict(self)}


def take_over(
    origin: Origin, config: ResolvedConfig, dataset: Dataset, model: nn.Module, optimizer: CombinedOptimizer
) -> WarmStart:
    """Copy vectors and optimizer states of known users, items and attribute values from an earlier run.

    Args:
        origin: The earlier run.
        config: Configuration of the training that begins.
        dataset: Its data.
        model: Its sharded model with initial values, which new rows retain; on every rank alike.
        optimizer: Its optimizer, before the first step.
    """
    _check_attributes(origin, config, dataset)
    users = rows_in(origin.vocabulary.user_ids, dataset.user_ids)
    items = rows_in(origin.vocabulary.item_ids, dataset.item_ids)
    rows = _origin_rows(origin, config, dataset, users, items)
    for key, value in whole_state(model).items():
        if _is_taken_over(key, origin, config):
            _fill(value, origin, _origin_key(key, origin, dataset), rows.get(str(table_name(key))))
    _keep_biases(origin, config, dataset, model, rows)
    states = _without_retained(rows, dataset, hashed=config.model.hashed_rows is not None)
    why_not = _take_over_states(origin, config, dataset, model, optimizer, states)
    held_out: Interactions = getattr(dataset, config.evaluation.split)
    told = origin.vocabulary.had(users[held_out.users], items[held_out.items])
    known = dataset.seen(config.evaluation.split)
    told &= ~stand_in(known, dataset.item_count, held_out.users, held_out.items)
    return WarmStart(
        run=str(origin.run),
        users=_matched(users, origin.vocabulary.user_ids, int(dataset.report.get("kept_users", 0))),
        items=_matched(items, origin.vocabulary.item_ids, int(dataset.report.get("kept_items", 0))),
        states=not why_not,
        why_not=why_not,
        steps=0 if why_not else origin.optimizer_steps,
        told=int(np.count_nonzero(told)),
        measured=len(held_out),
        news=news_of(origin.vocabulary, dataset, users, items),
    )


def _check_attributes(origin: Origin, config: Config, dataset: Dataset) -> None:
    """Refuse attributes that were categories and are numbers now, or the reverse, or of another width."""
    for side, prefix, inputs, names in (
        (USER, USER, origin.user_inputs, config.model.user_features),
        ("item", origin.vocabulary.item_name, origin.item_inputs, config.model.item_features),
    ):
        dense = dataset.user_dense if side == USER else dataset.item_dense
        widths = dense_widths(inputs)
        for name in names:
            before = widths.get(f"{prefix}_{name}", 0)
            now = dense[name].values.shape[1] if name in dense else 0
            if before != now:
                kinds = f"was {_kind(before)} in {origin.run}, and is {_kind(now)} now"
                raise ConfigError(
                    f"--model.{side}_features {name}: {kinds}. Read it as before with "
                    f"--data.attribute_kinds.{name}, or train without --from"
                )


def _kind(width: int) -> str:
    return {0: "a category", 1: "a number"}.get(width, f"a vector of {width:,}")


def _take_over_states(
    origin: Origin,
    config: ResolvedConfig,
    dataset: Dataset,
    model: nn.Module,
    optimizer: CombinedOptimizer,
    rows: dict[str, np.ndarray],
) -> str:
    """Take over optimizer states and steps, all or none; return the reason against it, or an empty text.

    Adam divides its moments by 1 - beta^step, as they have grown from zero for that many steps. A table has
    one step for all of its rows: that of the earlier run is right for known rows, and an approximation for
    new ones, whose moments are zero. With betas of 0.9 and 0.999 new rows move 3.2 times as far in their
    first step as from step 0, 6.5 times in their tenth, 3.2 times in their hundredth and 1.3 times in their
    thousandth.
    """
    before, now = origin.config.optimizer.name, config.optimizer.name
    if before != now:
        return f"{origin.run} was trained with {before}"
    sizes = entries(origin.checkpoint.folder)
    if not any(key.startswith(PREFIX) for key in sizes):
        return f"the last checkpoint of {origin.run} keeps none"
    create_states(optimizer)
    states = optimizer_state(model, optimizer, now)
    keys = {key: _origin_key(key, origin, dataset) for key in states}
    fits = all(sizes.get(keys[key], [0, 0])[1:] == full_shape(value)[1:] for key, value in states.items())
    set_step(optimizer, origin.optimizer_steps if fits else 0)
    for key, value in states.items():
        for shard, _, _ in local_shards(value):
            shard.zero_()  # creating states with a weight decay leaves them above zero
        if fits:
            table = table_name(key.removeprefix(PREFIX).rpartition(".")[0])
            _fill(value, origin, keys[key], rows.get(str(table)), zeros_are_new=False)
    return "" if fits else f"those of {origin.run} have another shape"


def _without_retained(
    rows: dict[str, np.ndarray], dataset: Dataset, *, hashed: bool
) -> dict[str, np.ndarray]:
    """Return `rows` without those of retained ids: zero states leave their untrained vectors in place.

    Hashed ids have no rows of their own: those of retained ones are trained on with others.
    """
    name = dataset.item_name
    of_items = (name, f"{name}_bias", context_table(name))
    retained = {USER: dataset.kept_users} | dict.fromkeys(of_items, dataset.kept_items)
    hashed_tables = (USER, name, context_table(name))
    retained = {table: ids for table, ids in retained.items() if not hashed or table not in hashed_tables}
    found = dict(rows)
    for table in retained.keys() & rows.keys():
        found[table] = rows[table].copy()
        found[table][retained[table]] = -1
    return found


def _origin_rows(
    origin: Origin, config: Config, dataset: Dataset, users: np.ndarray, items: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the row in the earlier run of every row of a table, -1 for new ones; by table."""
    before, name = origin.vocabulary, dataset.item_name
    items = _trained(items, trained_items(before, origin.item_inputs))
    trains_reserved = [run.model.item_id_dropout > 0 for run in (origin.config, config)]
    # Where the reserved row of untrained items is trained from now on, it keeps its initial value.
    reserved_item = -1 if trains_reserved == [False, True] else len(before.item_ids)
    all_items = np.append(items, reserved_item)
    # Where attributes let expect a bias, the reserved row holds what comes on top of it.
    means_the_same = (_bias_slope(origin) != 0) == expects_bias(config.model)
    all_biases = np.append(items, reserved_item if means_the_same else -1)
    rows = {USER_HISTORY: items, name: all_items, f"{name}_bias": all_biases}
    rows[context_table(name)] = np.append(items, len(before.item_ids))
    if count := config.model.hashed_rows:  # as many as before, see `trainer.config.resume.check_shape`
        rows[USER] = np.arange(count + 1)
        rows[name] = np.append(np.arange(count), -1 if reserved_item < 0 else count)
        rows[context_table(name)] = np.arange(count + 1)
    elif USER in origin.user_inputs:
        column: Any = origin.user_inputs[USER]
        own = _trained(users, column == np.arange(len(column)))
        rows[USER] = np.append(own, len(before.user_ids))
    for side, names, features, categories in (
        (USER, config.model.user_features, dataset.user_features, before.user_categories),
        (name, config.model.item_features, dataset.item_features, before.item_categories),
    ):
        for feature in names:
            if feature not in features:  # a number or a vector, which has no table
                continue
            codes = rows_in(categories[feature], features[feature].categories)
            rows[f"{side}_{feature}"] = np.append(codes, len(categories[feature]))
    return rows


def _trained(rows: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Return `rows`, where -1 is no row, with -1 for those that are not among the trained ones."""
    return np.where(np.append(trained, False)[rows], rows, -1)


def _bias_slope(origin: Origin) -> float:
    """Return the slope of the earlier run's expected biases; 0 if it has none."""
    folder = origin.checkpoint.folder
    keys = [key for key in entries(folder) if key.endswith(BIAS_SLOPE)]
    return float(read_entry(folder, keys[0])) if keys else 0.0


def _keep_biases(
    origin: Origin, config: ResolvedConfig, dataset: Dataset, model: nn.Module, rows: dict[str, np.ndarray]
) -> None:
    """Change the table of biases so that known items keep theirs, whatever is expected of them now."""
    name, state = dataset.item_name, whole_state(model)
    origin_rows = rows[f"{name}_bias"][:-1]
    known = np.flatnonzero(origin_rows >= 0)
    change = np.zeros(dataset.item_count + 1, np.float32)
    before: Any = origin.item_inputs.get(expected_bias(origin.vocabulary.item_name))
    if before is not None:
        change[known] += _bias_slope(origin) * before[origin_rows[known], 0]
    if expects_bias(config.model):
        slope = next(float(value) for key, value in state.items() if key.endswith(BIAS_SLOPE))
        change[known] -= slope * expected_biases(dataset, config.model)[known, 0]
    for key, value in state.items() if change.any() else ():
        if table_name(key) == f"{name}_bias":
            for shard, first_row, _ in local_shards(value):
                own = torch.from_numpy(change[first_row : first_row + len(shard), None])
                with torch.no_grad():
                    shard.add_(own.to(shard.device, shard.dtype))


def _matched(rows: np.ndarray, before: pa.Array, retained: int) -> Matched:
    found = int(np.count_nonzero(rows >= 0))
    return Matched(found - retained, len(rows) - found, len(before) - found, retained)


def _is_taken_over(key: str, origin: Origin, now: Config) -> bool:
    """Return whether an entry of the model's state is trained in both runs."""
    if key.endswith("log_temperature"):
        return origin.config.model.learn_temperature and now.model.learn_temperature
    if key.endswith(BIAS_SLOPE):
        return _bias_slope(origin) != 0
    return not key.startswith(UNTRAINED)


def _origin_key(key: str, origin: Origin, dataset: Dataset) -> str:
    """Return the key of the same entry in the earlier run, which may have another name for items."""
    before, now = origin.vocabulary.item_name, dataset.item_name
    path = key.split(".")
    for module in {"embedding_bags", "dense_inputs"} & set(path if "candidate" in path else ()):
        table = path.index(module) + (1 if module == "embedding_bags" else 2)
        path[table] = before + path[table].removeprefix(now)
    return ".".join(path)


def _fill(
    value: torch.Tensor | ShardedTensor,
    origin: Origin,
    key: str,
    rows: np.ndarray | None,
    zeros_are_new: bool = True,
) -> None:
    """Overwrite this rank's shards of an entry with the earlier run's: known rows or, without `rows`, all."""
    shards = list(local_shards(value))
    if not shards:
        return
    before = read_entry(origin.checkpoint.folder, key)
    with torch.no_grad():
        for shard, first_row, first_column in shards:
            if rows is None:
                shard.copy_(before)
                continue
            for start in range(0, len(shard), ROWS_AT_ONCE):
                block = shard[start : start + ROWS_AT_ONCE]
                sources = torch.from_numpy(rows[first_row + start : first_row + start + len(block)])
                known = torch.nonzero(sources >= 0).squeeze(1)
                values = before[sources[known]]
                if zeros_are_new:  # they were never trained, and a unit vector cannot learn from zero
                    known, values = known[values.any(1)], values[values.any(1)]
                if values.dim() > 1:
                    values = values[:, first_column : first_column + block.shape[1]]
                block[known.to(block.device)] = values.to(block.device, block.dtype)
