"""Preparing where each host reads, splits and keeps its own users; what is global and small is exchanged."""

import hashlib
import json
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.config.schema import DataConfig
from trainer.dataset.build import FILE_ORDER
from trainer.dataset.clean import clean
from trainer.dataset.encode import encode, id_notes
from trainer.dataset.prepare import cache_folder, rule_of
from trainer.dataset.split import BY_TIME, PARTS, TEST, Rule, check_split
from trainer.dataset.write_splits import write_parts
from trainer.distributed.world import World
from trainer.errors import DataError
from trainer.shares.core import common_core
from trainer.shares.hosts import Hosts
from trainer.shares.source import Buckets, buckets_of, own_rows
from trainer.shares.split import common_parts, repeated_in_time_of_test
from trainer.shares.vocabulary import CommonNumbers, with_common_ids
from trainer.sources.configured import source_of
from trainer.sources.schema import SourceTables
from trainer.storage import arrays
from trainer.storage.attribute_store import write_attributes
from trainer.storage.user_shares import UserShares, write_user_shares


def prepare_shares(data: DataConfig, world: World, shares: int | None = None) -> Path:
    """Return the folder of this host's part of the prepared data, made if that of any host is missing.

    Args:
        data: Data section of the configuration, with `share: users`.
        world: All ranks, each of which calls this.
        shares: Shares of users; by default one a rank.

    Raises:
        UserError: On every rank, if data are missing on any host, or cannot be read.
    """
    hosts = Hosts.of(world)
    return hosts.run(lambda: _prepared(data, hosts, shares or world.size))


def _prepared(data: DataConfig, hosts: Hosts, shares: int) -> Path:
    check_split(data.split, data.test_size, data.validation_size, data.split_seed)
    own, buckets = hosts.shares_of(hosts.place, shares), buckets_of(data, shares)
    make_source, source_key = source_of(data, buckets.of(own) if buckets.partitioned else None)
    settings = _settings(data)
    identity = json.dumps([arrays.FORMAT, data.name, source_key, settings, vars(buckets)], default=str)
    key = hashlib.sha256(identity.encode()).hexdigest()[:20]
    # What a host has was merged with what the others had: all parts are of one preparation, or made anew.
    of_all = hashlib.sha256(json.dumps(hosts.exchange(key)).encode()).hexdigest()[:20]
    cache = cache_folder(data.cache)
    folder = cache / f"{data.name}-users-{own.start}-{own.stop}-of-{shares}-{of_all}"
    with ExitStack() as stack:
        for host in range(len(hosts)):  # in turn, so that two trainings never wait for each other
            if host == hosts.place:
                _lock(stack, cache, folder)
            hosts.exchange(None)
        if not all(hosts.exchange(arrays.is_whole(folder))):
            with arrays.published(folder) as temporary:
                source = own_rows(make_source(), buckets, own, data.name)
                _Preparation(temporary, source, data.name, settings, hosts, buckets, own).build(of_all)
                hosts.exchange(None)  # published by all hosts or by none
    return folder


def _settings(data: DataConfig) -> dict[str, Any]:
    return {
        "min_value": data.min_value,
        "k_core": data.k_core,
        "split": rule_of(data),
        "test_size": data.test_size,
        "validation_size": data.validation_size,
        "split_seed": data.split_seed,
        "order": data.order,
        "repeats": data.repeats,
        "attribute_kinds": dict(data.attribute_kinds),
    }


def _lock(stack: ExitStack, cache: Path, folder: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        stack.enter_context(arrays.locked(folder))
    except OSError as error:
        raise DataError(
            f"{cache}: {error.strerror}. Choose a folder for prepared data: --data.cache"
        ) from error


class _Preparation:
    """One host's part of a preparation, as `trainer.dataset.build` has it for one host with all users."""

    def __init__(
        self,
        folder: Path,
        source: SourceTables,
        name: str,
        settings: dict[str, Any],
        hosts: Hosts,
        buckets: Buckets,
        own: range,
    ) -> None:
        self.folder, self.source, self.name, self.settings = folder, source, name, settings
        self.hosts, self.buckets, self.own = hosts, buckets, own

    def build(self, key: str) -> None:
        """Write all files of the prepared form."""
        if self.settings["split"] == "given" and self.source.held_out is None:
            raise DataError(
                f"{self.name}: --data.split given needs a file of held-out interactions: --data.held_out"
            )
        raw = self.folder / "raw"
        raw.mkdir()
        report, notes, users, items, cuts = self._write_interactions(raw)
        shutil.rmtree(raw)
        known_users = pa.concat_arrays([users, pa.nulls(1, users.type)])
        kinds = self.settings["attribute_kinds"]
        attributes, titles = write_attributes(
            self.folder, {"user": known_users, "item": items}, self.source, kinds
        )
        arrays.write_ids(self.folder, "user", users, None)
        arrays.write_ids(self.folder, "item", items, titles)
        shares = self._common_counts(users, cuts, len(items))
        report |= _known(shares, self._items_of("test", len(items)))
        report |= {"users": len(users), "items": len(items)}
        notes = [*self.source.bad_rows.notes, *notes]
        meta = {"key": key, "name": self.name, "item_name": self.source.item_name, "report": report}
        meta |= {"notes": notes, "has_order": False} | attributes
        arrays.write_meta(self.folder, meta | write_user_shares(self.folder, shares))

    def _write_interactions(
        self, raw: Path
    ) -> tuple[dict[str, Any], list[str], pa.Array, pa.Array, np.ndarray]:
        settings, hosts, name = self.settings, self.hosts, self.name
        encoded = encode(self.source, name, raw, file_order=settings["order"] == "file")
        encoded = with_common_ids(encoded, hosts)
        notes = id_notes({"item_id": encoded.ids["item_id"]})
        notes += [FILE_ORDER] if settings["order"] == "file" else []
        given = self.source.held_out is not None and settings["split"] != "none"
        rule: Rule = "given" if given else settings["split"]
        find_core = partial(common_core, item_count=len(encoded.ids["item_id"]), hosts=hosts)
        stays, dropped, repeats = clean(
            encoded, name, settings["min_value"], settings["k_core"], rule in (*BY_TIME, "none"), find_core
        )
        parts = common_parts(encoded, stays, rule, settings, hosts)
        counts: dict[str, int] = {"read": len(parts)}
        if rule in BY_TIME:
            found = repeated_in_time_of_test(encoded, parts, rule, repeats, hosts)
            keep = settings["repeats"] == "keep"
            parts[found] = TEST if keep else parts[found]
            counts["repeats_kept" if keep else "repeats_dropped"] = len(found)
        dropped["duplicates"] -= int(np.count_nonzero(parts >= 0)) - int(np.count_nonzero(stays))
        counts |= dropped | {part: int(np.count_nonzero(parts == p)) for p, part in enumerate(PARTS)}
        report: dict[str, Any] = hosts.sums(counts) | {"split": rule}
        # Of a partitioned folder each host has rows of its own, of plain files all have the same ones.
        skipped = hosts.exchange(self.source.bad_rows.skipped)
        report["skipped"] = sum(skipped) if self.buckets.partitioned else max(skipped)
        numbers = CommonNumbers(hosts, self.buckets, self.own)
        users, items = write_parts(self.folder, encoded, parts, numbers.number, sequences=False)
        return report, notes, users, items, numbers.cuts

    def _common_counts(self, users: pa.Array, cuts: np.ndarray, item_count: int) -> UserShares:
        """Exchange the lengths of all users' lists, the popularity of items, and digests."""
        first, last = cuts[self.own.start], cuts[self.own.stop]
        lengths: dict[str, np.ndarray] = {}
        digests: dict[str, str] = {}
        for split in PARTS:
            by_user = arrays.map_ragged(self.folder, f"by_user_{split}")
            own = by_user.lengths()[first:last].astype(np.int32)
            lengths[split] = np.append(np.concatenate(self.hosts.exchange(own)), np.int32(0))
            of_shares = [
                _digest(users, by_user.offsets, by_user.values, cuts[share], cuts[share + 1])
                for share in self.own
            ]
            of_all = [digest for each in self.hosts.exchange(of_shares) for digest in each]
            digests[split] = hashlib.sha256("\n".join(of_all).encode()).hexdigest()
        return UserShares(cuts, lengths, self._items_of("train", item_count), digests)

    def _items_of(self, split: str, item_count: int) -> np.ndarray:
        """Return the interactions of each item in a split over all hosts."""
        values = arrays.map_ragged(self.folder, f"by_user_{split}").values
        return self.hosts.sum(np.bincount(values, minlength=item_count))


def _known(shares: UserShares, test_items: np.ndarray) -> dict[str, int]:
    """Count held-out users and items, and those that training knows, as `write_splits.count_known` does."""
    found: dict[str, int] = {}
    for side, train, test in (
        ("users", shares.lengths["train"], shares.lengths["test"]),
        ("items", shares.item_counts, test_items),
    ):
        found[f"held_out_{side}"] = int(np.count_nonzero(test))
        found[f"known_{side}"] = int(np.count_nonzero((test > 0) & (train > 0)))
    return found


def _digest(users: pa.Array, offsets: np.ndarray, values: np.ndarray, first: int, last: int) -> str:
    """Return the SHA-256 of a share's users with their items in a split."""
    digest = hashlib.sha256(json.dumps(users.slice(first, last - first).to_pylist()).encode())
    digest.update(np.diff(offsets[first : last + 1]).astype(np.int32).tobytes())
    digest.update(np.ascontiguousarray(values[offsets[first] : offsets[last]]).data)
    return digest.hexdigest()
