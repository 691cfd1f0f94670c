"""Small worlds whose right answer is known without a model, for tests of every part."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.cli import main
from trainer.config.parser import parse_config
from trainer.config.resolved import ResolvedConfig
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.build import prepare
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.sources.schema import SourceTables

Pairs = Sequence[tuple[int | str, int | str]]
"""Interactions as (raw user id, raw item id)."""

FIRST_USER, FIRST_ITEM = 1001, 51


def checkerboard(users: int = 16, items: int = 8) -> tuple[Pairs, Pairs]:
    """Users and items of two colours: every user has all items of their colour but one, which is withheld.

    It is the one unseen item that resembles what the user has, so it must be recommended first. Popularity
    says nothing: where `users` is a multiple of `items`, all items are equally popular.

    Args:
        users: count, even; raw ids count up from FIRST_USER, and a user's colour is the row's parity.
        items: count, even; raw ids from FIRST_ITEM, colours alike.
    Returns: training pairs, and the withheld pair of every user.
    """
    train, withheld = [], []
    for user in range(users):
        diagonal = user % items
        for item in range(user % 2, items, 2):
            pairs = withheld if item == diagonal else train
            pairs.append((FIRST_USER + user, FIRST_ITEM + item))
    return train, withheld


def table(pairs: Pairs, values: Sequence[float] | None = None) -> pa.Table:
    """Interactions with the columns of a reader's."""
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    columns = {"user_id": pa.array(users), "item_id": pa.array(items)}
    if values is not None:
        columns["value"] = pa.array(values, pa.float32())
    return pa.table(columns)


def dataset(
    cache: Path,
    train: Pairs,
    held_out: Pairs,
    values: Sequence[float] | None = None,
    users: pa.Table | None = None,
    items: pa.Table | None = None,
    item_name: str = "item",
    order: Literal["time", "file"] = "time",
) -> Dataset:
    """A prepared data set of just these pairs, made anew.

    Args:
        cache: an empty folder.
        train: training pairs, in this order.
        held_out: test pairs, at least one; a pair of both parts stays in the test part alone.
        values: of the training pairs; test pairs then get 1 each.
        users, items: attributes, see `SourceTables`.
        order: whether pairs, which have no times, stand in order of time: `file`.
    """
    source = SourceTables(
        iter(table(train, values).to_batches()),
        iter(table(held_out, None if values is None else [1.0] * len(held_out)).to_batches()),
        users,
        items,
        item_name,
    )
    folder = prepare(
        lambda: source,
        {},
        cache,
        name="world",
        min_value=None,
        k_core=0,
        split="given",
        test_size=0.2,
        validation_size=0.0,
        split_seed=42,
        order=order,
    )
    return open_dataset(folder)


def options(
    folder: Path, train: Pairs, held_out: Pairs, raw: Callable[[int | str], int | str] = lambda number: number
) -> list[str]:
    """Command-line options that read these pairs from Parquet files which are written into `folder`.

    Args:
        raw: applied to every id, for instance `str`.
    """
    arguments = ["--data.name", "files", "--data.cache", str(folder / "cache")]
    for option, pairs in (("interactions", train), ("held_out", held_out)):
        path = folder / f"{option}.parquet"
        pq.write_table(table([(raw(user), raw(item)) for user, item in pairs]), path)
        arguments += [f"--data.{option}", str(path)]
    return arguments


QUICK = (
    *("--model.dim", "8", "--batches.size", "4", "--run.epochs", "20", "--run.tensorboard", "false"),
    *("--optimizer.name", "rowwise_adagrad"),
)
"""Options under which a checkerboard is learned in a fraction of a second."""


def configured(data: Dataset, *options: str) -> ResolvedConfig:
    """A configuration without gaps for a training on `data`."""
    config = with_size_defaults(parse_config(options), data.user_count, data.item_count, len(data.train))
    return with_fixed_values(config)


def trained(folder: Path, *arguments: str) -> Path:
    """Run folder of a training under `QUICK` and the given options, which must succeed."""
    run = folder / "run"
    assert main(["train", *QUICK, "--device", "cpu", "--run.dir", str(run), *arguments]) == 0
    return run


def figures(run: Path) -> dict[str, float]:
    """The model's figures of a finished run."""
    return json.loads((run / "metrics.json").read_text())["model"]


HOUR = 3600


def ordered_table(
    histories: Mapping[int, Sequence[int]],
    hours: Sequence[int] = (1,),
    weight: Callable[[int, int], float] | None = None,
) -> pa.Table:
    """Interactions of users whose items come one after another.

    Args:
        histories: items of each user, the oldest first.
        hours: between one item of a user and the next, in turn.
        weight: of a user's item.
    """
    rows = [
        (user, item, sum(hours[earlier % len(hours)] for earlier in range(place)) * HOUR)
        for user, items in histories.items()
        for place, item in enumerate(items)
    ]
    rows.sort(key=lambda row: (row[2], row[0]))  # users take turns in the file
    users, items, times = zip(*rows, strict=True)
    columns = {"user_id": pa.array(users), "item_id": pa.array(items), "timestamp": pa.array(times)}
    if weight is not None:
        columns["weight"] = pa.array([weight(user, item) for user, item, _ in rows], pa.float32())
    return pa.table(columns)


def ordered_dataset(
    cache: Path,
    histories: Mapping[int, Sequence[int]],
    validation_size: float = 0.0,
    split: str = "leave_last_out",
    hours: Sequence[int] = (1,),
    weight: Callable[[int, int], float] | None = None,
    **attributes: pa.Table,
) -> Dataset:
    """A prepared data set of ordered histories; each user's last item is the test split.

    Args:
        cache: an empty folder.
        histories: see `ordered_table`.
        validation_size: above 0: each user's last item before that is the validation split.
        split: `none` trains on all.
        hours, weight: see `ordered_table`.
        attributes: `users` and `items`, see `SourceTables`.
    """
    folder = prepare(
        lambda: SourceTables(iter(ordered_table(histories, hours, weight).to_batches()), **attributes),
        {},
        cache,
        name="ordered",
        min_value=None,
        k_core=0,
        split=split,
        test_size=0.2,
        validation_size=validation_size,
        split_seed=42,
    )
    return open_dataset(folder)


def ordered_options(
    folder: Path, histories: Mapping[int, Sequence[int]], hours: Sequence[int] = (1,)
) -> list[str]:
    """Command-line options that read ordered histories from a Parquet file which is written into `folder`."""
    path = folder / "interactions.parquet"
    pq.write_table(ordered_table(histories, hours), path)
    data = ["--data.name", "files", "--data.cache", str(folder / "cache"), "--data.interactions", str(path)]
    return [*data, "--data.split", "leave_last_out"]


def cycle(users: int = 40, items: int = 12, length: int = 9) -> dict[int, list[int]]:
    """Histories of users who walk one cycle of items, each from a place of their own.

    After an item comes the next in the cycle. All items are equally popular, and what a user has is an arc,
    of which only the order says at which of its ends it grows.
    """
    start, first = FIRST_ITEM, FIRST_USER
    return {
        first + user: [start + (user * 5 + place) % items for place in range(length)] for user in range(users)
    }
