"""Shares of users in a run folder: how many there are, and its vocabulary, which is that of all hosts."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.dataset.dataset import Dataset
from trainer.dataset.vocabulary import FOLDER, HELD_OUT, SEEN
from trainer.distributed.agreement import appears
from trainer.distributed.world import World
from trainer.errors import CheckpointError, ConfigError
from trainer.shares.hosts import Hosts
from trainer.storage import arrays
from trainer.storage.attribute_table import attribute_table
from trainer.storage.columns import saved
from trainer.storage.user_shares import UserShares

CUTS = "user_cuts"
"""Array in the vocabulary of a run: where the users of each share begin, and the end of the last."""


def shares_of_run(run: Path) -> int:
    """Return the number of shares by which a run's users are numbered: the ranks of its training.

    Raises:
        CheckpointError: The run does not say.
    """
    cuts = arrays.map_array(run / FOLDER, CUTS)
    if cuts is None:
        raise CheckpointError(
            f"{run / FOLDER / CUTS}.npy: is missing. Train the run anew, into another folder"
        )
    return len(cuts) - 1


def shares_in_training(run: Path | None, world: World) -> int:
    """Return the number of shares of a training, one a rank, which a run that is resumed has already.

    Raises:
        ConfigError: It was begun at another number of ranks; raised on every rank.
    """

    def begun() -> int | None:
        cuts = None if run is None else arrays.map_array(run / FOLDER, CUTS)
        return None if cuts is None else len(cuts) - 1

    shares = world.on_first(begun) or world.size
    if shares != world.size:
        raise ConfigError(
            f"--run.dir {run}: with --data.share users its users are numbered for {shares} ranks, and these "
            f"are {world.size}. Go on at {shares} ranks, on any number of hosts, or train anew elsewhere"
        )
    return shares


def gather_vocabulary(run: Path, dataset: Dataset, shares: UserShares, world: World) -> None:
    """Write the vocabulary of a run, as `trainer.dataset.vocabulary.copy_vocabulary` does, from all hosts.

    Each host writes its users beside it, into the folder that all hosts see, and rank 0 joins them.
    """
    target, hosts = run / FOLDER, Hosts.of(world)
    written = world.on_first(lambda: arrays.is_whole(target) and arrays.read_meta(target, "")["key"])
    if written == dataset.key:
        return
    places = [run / f".{FOLDER}-{host}" for host in range(len(hosts))]
    own = hosts.shares_of(hosts.place, len(shares))
    first, last = int(shares.cuts[own.start]), int(shares.cuts[own.stop])
    try:
        hosts.run(lambda: _write_part(places[hosts.place], dataset, first, last))
        world.on_first(lambda: _join(target, places, dataset, shares), long=True)
    finally:
        if world.is_first:
            for place in places:
                shutil.rmtree(place, ignore_errors=True)


def _write_part(place: Path, dataset: Dataset, first: int, last: int) -> None:
    with arrays.published(place) as temporary:
        arrays.write_column(temporary, "users", dataset.user_ids.slice(first, last - first))
        for name, lists in ((SEEN, dataset.seen("test")), (HELD_OUT, dataset.served_held_out())):
            np.save(temporary / f"{name}.npy", lists.values[lists.offsets[first] : lists.offsets[last]])


def _join(target: Path, places: list[Path], dataset: Dataset, shares: UserShares) -> None:
    lengths = shares.lengths
    for place in places:
        if not appears(place):
            raise ConfigError(
                f"--run.dir {target.parent}: rank 0 does not see what another host writes there. With "
                "--data.share users, name a folder that all hosts share, by its full path"
            )
    with arrays.published(target) as temporary:
        users = [arrays.map_column(place, "users") for place in places]
        arrays.write_ids(temporary, "user", pa.concat_arrays(users), None)
        arrays.write_ids(temporary, "item", dataset.item_ids, dataset.titles)
        before = lengths["train"].astype(np.int64) + lengths["validation"]
        for name, counts in ((SEEN, before), (HELD_OUT, lengths["test"].astype(np.int64))):
            np.save(temporary / f"{name}_offsets.npy", np.append(0, np.cumsum(counts)))
            with saved(temporary / f"{name}_values.npy", np.int32, int(counts.sum())) as file:
                for place in places:  # a host at a time
                    np.load(place / f"{name}.npy", mmap_mode="r").tofile(file)
        np.save(temporary / f"{CUTS}.npy", shares.cuts)
        names: dict[str, list[str]] = {"user_features": [], "item_features": [*dataset.item_features]}
        for number, feature in enumerate(dataset.item_features.values()):
            arrays.write_column(temporary, f"item_categories_{number}", feature.categories)
        attributes = attribute_table(dataset.item_features, dataset.item_dense, dataset.item_count)
        arrays.write_table(temporary, "item_attributes", attributes)
        arrays.write_meta(temporary, {"key": dataset.key, "item_name": dataset.item_name} | names)
