"""Items that a user is known to have: those of all splits of a run, and on request of newer interactions."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.config.schema import DataConfig
from trainer.dataset.prepare import cache_folder
from trainer.dataset.vocabulary import HELD_OUT, Vocabulary, vocabulary_key
from trainer.errors import UserError
from trainer.formatting import format_command
from trainer.runs.checkpoint_store import CONFIG
from trainer.sources.configured import read_source
from trainer.storage import arrays
from trainer.storage.attributes import Ragged


def held_out_lists(run: Path, vocabulary: Vocabulary) -> Ragged | None:
    """Return the item rows of all users in the test split; None if they are gone.

    Run folders of older versions do not hold them: then they are read from the prepared data.
    """
    return vocabulary.held_out or _prepared(run)


def held_out_items(run: Path, vocabulary: Vocabulary, row: int) -> np.ndarray | None:
    """Return the item rows of a user in the test split; None if they are gone; see `held_out_lists`."""
    held_out = held_out_lists(run, vocabulary)
    return None if held_out is None else held_out.take(np.array([row]))[1]


def without_held_out(run: Path) -> str:
    """Return what to do about a run whose test interactions are gone."""
    return (
        f"{run} is of an older version and keeps no test interactions, and its prepared data are gone from "
        f"{cache_folder(_data(run).cache)}. Prepare them again: {format_command('evaluate', run)}"
    )


@dataclass(frozen=True)
class Newer:
    """A user's items in a file of interactions, each once, without items unknown to the run.

    Attributes:
        items: (n,) int64 item rows, in the order of their times or, without these, of the file.
        times: (n,) int64 seconds; None where the file has none, or they were not asked for.
    """

    items: np.ndarray
    times: np.ndarray | None


def newer_items(run: Path, vocabulary: Vocabulary, path: Path, user: str, *, timed: bool = False) -> Newer:
    """Return the items of a user in a file of interactions.

    Args:
        run: Run folder, whose names of id columns hold for the file too, and whose format where the file ends
            as those of the training did; any other is taken as what it is.
        vocabulary: Of the run.
        path: File of interactions.
        user: Raw id as text.
        timed: Whether to read times, where the file has them.

    Raises:
        DataError: The file cannot be read.
        UserError: There is none.
    """
    if not path.exists():
        raise UserError(f"--interactions {path}: no such file. Name an existing one")
    trained = _data(run)
    same = trained.name == "files" and Path(trained.interactions or "").suffix == path.suffix
    data = replace(
        trained,
        name="files",
        format=trained.format if same else "auto",
        interactions=str(path),
        held_out=None,
        impressions=str(path),  # of which times may be absent
        users=None,
        items=None,
        user_vectors={},
        item_vectors={},
        value_column=None,
        timestamp_column=trained.timestamp_column if timed else None,
        weight_column=None,
    )
    batches = read_source(data).impressions
    assert batches is not None
    items, times = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    has_times = timed
    for batch in batches:
        own = batch.filter(pc.equal(batch["user_id"].cast(pa.string()), user))
        rows = _rows(own["item_id"], vocabulary.item_ids)
        items.append(rows[rows >= 0])
        has_times = has_times and "timestamp" in batch.schema.names
        if has_times:
            times.append(own["timestamp"].to_numpy(zero_copy_only=False)[rows >= 0])
    found, seconds = np.concatenate(items), np.concatenate(times)
    if has_times:
        order = np.argsort(seconds, kind="stable")
        found, seconds = found[order], seconds[order]
    first = np.sort(np.unique(found, return_index=True)[1])
    return Newer(found[first], seconds[first] if has_times else None)


def _rows(ids: pa.Array, known: pa.Array) -> np.ndarray:
    """Return the row of each id, -1 if it is unknown; ids of two types compare as text."""
    if ids.type != known.type:
        ids, known = ids.cast(pa.string()), known.cast(pa.string())
    rows = pc.fill_null(pc.index_in(ids, value_set=known), -1)
    return rows.to_numpy(zero_copy_only=False).astype(np.int64)


def _prepared(run: Path) -> Ragged | None:
    """Return the test items of each user from the prepared data of a run; None if they are gone."""
    # The name of their folder ends with the key, and begins with another one if an earlier run retained ids.
    for folder in cache_folder(_data(run).cache).glob(f"*-{vocabulary_key(run)[:20]}"):
        if arrays.is_whole(folder):
            return arrays.map_ragged(folder, HELD_OUT)
    return None


def _data(run: Path) -> DataConfig:
    from trainer.config.parser import read_config

    return read_config(run / CONFIG).data
