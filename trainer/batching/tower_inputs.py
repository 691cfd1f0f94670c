"""Features of users and items that the towers look up, as TorchRec takes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import torch
from torchrec import KeyedJaggedTensor

from trainer.atomic_write import replaced
from trainer.batching.dropout import Bags
from trainer.batching.expected_popularity import expected_log_popularity
from trainer.config.effects import expects_bias, query_features
from trainer.config.schema import Config, ModelConfig
from trainer.config.size_defaults import popularity_prior
from trainer.dataset.dataset import Dataset
from trainer.errors import CheckpointError, ConfigError
from trainer.facts.histories import history_spec
from trainer.storage.attributes import DenseFeature, Feature, Ragged
from trainer.storage.id_hashes import Collisions, collisions, hashed_bags

Inputs: TypeAlias = Mapping[str, np.ndarray | Ragged]
"""Features of one tower by name: one id a row, (rows,), or a bag of codes a row, each for a table of that
name; or the numbers of each row, (rows, width) float32 with NaN where missing, for a layer of that name."""

USER = "user"
"""Name of the table of user ids."""
USER_HISTORY = "user_history"
"""Name of the table for histories, with a row an item."""
CONTEXT = "_context"
"""End of the name of the table of vectors that items have in ordered histories."""
USER_SEQUENCE, USER_SEQUENCE_TIMES = "user_sequence", "user_sequence_times"
"""Names of ordered histories and of their times in the features of users, without tables of their own."""


def user_inputs(dataset: Dataset, features: Sequence[str], ids: bool = True, history: bool = False) -> Inputs:
    """Return the query features: the user's id, the training items, then attributes; by table.

    A user without training interactions looks up the row reserved for unknown users and has an empty
    history, unless they are retained from an earlier run.
    """
    rows, items = np.arange(dataset.user_count + 1, dtype=np.int32), dataset.history()
    if dataset.shares is not None:
        rows = dataset.shares.rows_in_table()
    rows[dataset.counts_by_user("train") == 0] = rows[-1]
    rows[dataset.kept_users] = dataset.kept_users
    attributes = _attributes(USER, features, dataset.user_features, dataset.user_dense)
    return ({USER: rows} if ids else {}) | ({USER_HISTORY: items} if history else {}) | attributes


def item_inputs(dataset: Dataset, features: Sequence[str], bias: bool) -> Inputs:
    """Return the candidate features: the item's id, then attributes, then the id again for the bias table.

    An item without training interactions looks up row `item_count`, which is reserved for such items: only
    attributes tell them apart. Items retained from an earlier run have rows of their own.
    """
    name, ids = dataset.item_name, np.arange(dataset.item_count, dtype=np.int32)
    ids[dataset.train_counts_by_item() == 0] = dataset.item_count
    ids[dataset.kept_items] = dataset.kept_items
    attributes = _attributes(name, features, dataset.item_features, dataset.item_dense)
    return {name: ids} | attributes | ({f"{name}_bias": ids} if bias else {})


def with_hashed_ids(
    dataset: Dataset, users: Inputs, items: Inputs, rows: int, *, reserves_items: bool
) -> tuple[Inputs, Inputs]:
    """Return the features of both towers with two rows of an id by hashing, in place of a row an id.

    An id without training interactions has its rows like any other. Biases stay a row an item.

    Args:
        dataset: The data set.
        users: Features of the query tower, by `user_inputs`.
        items: Features of the candidate tower, by `item_inputs`.
        rows: Rows of each table of ids, without the reserved one.
        reserves_items: Whether items without training interactions look up the reserved row all the same,
            as it is trained.
    """
    name = dataset.item_name
    ids: Any = items[name]
    reserved = ids == dataset.item_count if reserves_items else None
    hashed = {USER: hashed_bags(dataset.user_ids, rows)} if USER in users else {}
    return {**users, **hashed}, {**items, name: hashed_bags(dataset.item_ids, rows, reserved)}


def id_collisions(users: Inputs, items: Inputs, item_name: str) -> dict[str, Collisions]:
    """Return how many ids share rows, by side, `user` or what an item is called; empty without hashing."""
    tables = ((USER, users.get(USER)), (item_name, items.get(item_name)))
    return {side: collisions(column) for side, column in tables if isinstance(column, Ragged)}


def expected_bias(item_name: str) -> str:
    """Return the name of the numbers that hold each item's bias as its attributes let expect it."""
    return f"{item_name}_expected_bias"


def expected_popularity(dataset: Dataset, names: Sequence[str]) -> np.ndarray:
    """Return the log popularity of each item that these attributes let expect, (items,) float64."""
    return expected_log_popularity(
        dataset.item_popularity(),
        {name: dataset.item_features[name] for name in names if name in dataset.item_features},
        {name: dataset.item_dense[name] for name in names if name in dataset.item_dense},
    )


def expected_biases(dataset: Dataset, model: ModelConfig) -> np.ndarray:
    """Return the expected bias of each item, (items, 1): centred log popularity times the prior.

    Items without training interactions, which no step looks up, have the boost in it.
    """
    popularity = dataset.item_popularity()
    expected = expected_popularity(dataset, model.item_features)
    biases = popularity_prior(model) * (expected - log_popularity(popularity, dataset.train.weights).mean())
    biases[popularity == 0] += model.new_item_boost
    return biases[:, None].astype(np.float32)


def log_popularity(popularity: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the log of counts or summed weights, where none count as half of one or of the least weight."""
    return np.log(np.maximum(popularity, 0.5 if weights is None else weights.min() / 2))


def _attributes(
    prefix: str,
    names: Sequence[str],
    categories: Mapping[str, Feature],
    dense: Mapping[str, DenseFeature],
) -> dict[str, np.ndarray | Ragged]:
    return {
        f"{prefix}_{name}": dense[name].values if name in dense else categories[name].bags for name in names
    }


def named_dense(dataset: Dataset) -> dict[str, DenseFeature]:
    """Return the numbers and vectors of both sides by the names that they have in towers."""
    sides = ((USER, dataset.user_dense), (dataset.item_name, dataset.item_dense))
    return {f"{prefix}_{name}": feature for prefix, dense in sides for name, feature in dense.items()}


def dense_widths(inputs: Inputs) -> dict[str, int]:
    """Return the numbers in each feature that is a number or a vector, by its name."""
    return {name: column.shape[1] for name, column in inputs.items() if _is_dense(column)}  # type: ignore[union-attr]


def ordered_histories(dataset: Dataset, split: str = "test") -> dict[str, Ragged]:
    """Return the ordered histories that users have before a split, and their times where there are any."""
    sequences = dataset.sequences(split)
    times = {} if sequences.times is None else {USER_SEQUENCE_TIMES: sequences.times}
    return {USER_SEQUENCE: sequences.items, **times}


def context_table(item_name: str) -> str:
    """Return the name of the table of vectors that items have in ordered histories."""
    return f"{item_name}{CONTEXT}"


def _is_dense(column: np.ndarray | Ragged) -> bool:
    return isinstance(column, np.ndarray) and column.ndim == 2


def looked_up(inputs: Inputs) -> Inputs:
    """Return the features that are looked up in tables: all but numbers, vectors and ordered histories."""
    ordered = (USER_SEQUENCE, USER_SEQUENCE_TIMES)
    return {name: column for name, column in inputs.items() if name not in ordered and not _is_dense(column)}


def dense_values(inputs: Inputs, rows: np.ndarray) -> torch.Tensor | None:
    """Return the numbers and vectors of the given rows side by side, (b, sum of widths); None without any."""
    columns: list[Any] = [inputs[name] for name in dense_widths(inputs)]
    return torch.from_numpy(np.concatenate([column[rows] for column in columns], axis=1)) if columns else None


def table_rows(dataset: Dataset, inputs: Inputs, hashed_rows: int | None = None) -> dict[str, int]:
    """Return the number of rows of each feature's table, including reserved ones.

    Args:
        dataset: The data set.
        inputs: Features of one tower.
        hashed_rows: Rows of tables of ids that are hashed; None: they have a row an id.
    """
    name = dataset.item_name
    rows = {f"user_{feature.name}": feature.size for feature in dataset.user_features.values()}
    rows |= {f"{name}_{feature.name}": feature.size for feature in dataset.item_features.values()}
    users = dataset.user_count + 1 if dataset.shares is None else dataset.shares.table_rows
    rows |= {USER: users, USER_HISTORY: dataset.item_count}
    rows |= dict.fromkeys((name, f"{name}_bias", context_table(name)), dataset.item_count + 1)
    rows |= dict.fromkeys((USER, name, context_table(name)), hashed_rows + 1) if hashed_rows else {}
    return {table: rows[table] for table in looked_up(inputs)}


def keyed_jagged(
    inputs: Inputs, rows: np.ndarray, instead: Mapping[str, Bags] | None = None
) -> KeyedJaggedTensor:
    """Return the features of the given rows as TorchRec takes them.

    Args:
        inputs: Features of all rows.
        rows: Row numbers, (b,) integers.
        instead: Bags of these b rows that replace those of `inputs`, by feature.

    Returns:
        Features of stride b, keys in the order of `inputs`.
    """
    instead, ones = instead or {}, np.ones(len(rows), np.int32)
    bags, tables = [], looked_up(inputs)
    for table, column in tables.items():
        if table in instead:
            bags.append(instead[table])
        else:
            bags.append(column.take(rows) if isinstance(column, Ragged) else (ones, column[rows]))
    return KeyedJaggedTensor(
        keys=list(tables),
        values=_joined([ids for _, ids in bags], np.int64),
        lengths=_joined([lengths for lengths, _ in bags], np.int32),
        stride=len(rows),
        # Otherwise TorchRec sums them up on the device, and the CPU waits for a GPU.
        length_per_key=[len(ids) for _, ids in bags],
    )


def _joined(arrays: list[np.ndarray], dtype: type) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.empty(0, dtype), *arrays], dtype=dtype))


def save_inputs(path: Path, inputs: Inputs) -> None:
    """Write the features of one tower to a `.npz` file."""
    arrays: dict[str, np.ndarray] = {}
    for table, column in inputs.items():
        if isinstance(column, Ragged):
            arrays |= {f"{table}.offsets": column.offsets, f"{table}.values": column.values}
        else:
            arrays[table] = column
    with replaced(path) as beside:
        np.savez(beside, **arrays)  # type: ignore[arg-type]


def open_inputs(path: Path) -> Inputs:
    """Read features that `save_inputs` wrote.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). Train anew elsewhere") from None
    tables = dict.fromkeys(name.partition(".")[0] for name in arrays)
    return {
        table: arrays[table]
        if table in arrays
        else Ragged(arrays[f"{table}.offsets"], arrays[f"{table}.values"])
        for table in tables
    }


TAKEN_NAMES = {"user": ("history", "low_rank"), "item": ("bias", "expected_bias", "low_rank")}
"""Attributes whose tables would have the name of another one."""


def make_inputs(config: Config, dataset: Dataset) -> tuple[Inputs, Inputs]:
    """Return the features of the query tower and of the candidate tower.

    Raises:
        ConfigError: If the data set lacks an attribute, or one cannot name a table.
    """
    for side, wanted, present in (
        ("user", config.model.user_features, dataset.user_features | dataset.user_dense),
        ("item", config.model.item_features, dataset.item_features | dataset.item_dense),
    ):
        for name in wanted:
            if name not in present:
                has = f"it has {', '.join(present)}" if present else "it has none"
                remark = dataset.attributes.get(side, {}).get(name)
                why = f"was {remark}" if remark else f"no such attribute in {dataset.name}"
                raise ConfigError(f"--model.{side}_features {name}: {why}; {has}")
            if "." in name or ":" in name or name in TAKEN_NAMES[side]:
                taken = " or ".join(f"`{other}`" for other in TAKEN_NAMES[side])
                raise ConfigError(
                    f"--model.{side}_features {name}: cannot name a table (no `.` or `:`, not {taken}). "
                    "Rename the column"
                )
    model = config.model
    spec = history_spec(model.history)
    users = user_inputs(dataset, model.user_features, "user_id" in query_features(model), spec.bag)
    items = item_inputs(dataset, model.item_features, model.item_bias)
    if model.hashed_rows:
        reserves = model.item_id_dropout > 0
        users, items = with_hashed_ids(dataset, users, items, model.hashed_rows, reserves_items=reserves)
    if spec.ordered:
        if not dataset.has_order:
            raise ConfigError(
                f"--model.history {model.history}: {dataset.name} has no timestamps. "
                "Use --model.history bag, or files with times, or with --data.order file"
            )
        users = {**users, **ordered_histories(dataset)}
        if model.history_decay == "time" and USER_SEQUENCE_TIMES not in users:
            raise ConfigError(
                f"--model.history_decay time: {dataset.name} has no timestamps. "
                "Use --model.history_decay position"
            )
        if model.history_table != "tied":
            items = {**items, context_table(dataset.item_name): items[dataset.item_name]}
    if expects_bias(model):
        items = {**items, expected_bias(dataset.item_name): expected_biases(dataset, model)}
    if not looked_up(users) and not spec.ordered:
        raise ConfigError(
            f"--model.user_id false: the query tower needs a table, and {', '.join(users)} have none, as "
            "numbers and vectors. Use --model.user_id true or --model.history bag"
        )
    return users, items
