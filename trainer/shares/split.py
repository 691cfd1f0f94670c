"""Splits that depend on no other host's rows, but for one cut in time that all agree on.

`random` and `per_user` draw by hashes of raw ids in place of row numbers, so that whoever holds a user's
rows splits them alike. `random` then holds out each interaction by the same chance, independently of the
others, and its test split is as large as asked for but for chance.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer.dataset.encode import Encoded
from trainer.dataset.split import (
    PARTS,
    TEST,
    TRAIN,
    VALIDATION,
    Rule,
    check_counts,
    check_order,
    last_of_each_user,
    validation_rule,
)
from trainer.shares.hosts import Hosts
from trainer.storage.columns import blocks
from trainer.storage.draws import share_by_draws
from trainer.storage.pairs import Repeats
from trainer.storage.tie_hashes import tie_hashes


def common_parts(
    encoded: Encoded, stays: np.ndarray, rule: Rule, settings: dict[str, Any], hosts: Hosts
) -> np.ndarray:
    """Return the split of every row, (n,) int8, -1 where it was dropped.

    Args:
        encoded: This host's interactions.
        stays: (n,) bool.
        rule: How the test split is chosen.
        settings: Of the preparation.
        hosts: All hosts, each of which calls this.

    Raises:
        DataError: The rule needs an order and there is none, or a split would be empty on all hosts.
    """
    check_order(rule, encoded.has_order)
    parts = np.where(stays, np.int8(TRAIN), np.int8(-1))
    chooser = _Chooser(encoded, hosts)
    if rule != "none":
        if rule == "given":
            chosen = stays & (np.arange(len(encoded)) >= encoded.training_rows)
        else:
            chosen = chooser.choose(rule, stays, settings["test_size"], settings["split_seed"], TEST)
        parts[chosen] = TEST
        _check(rule, rule, parts, TEST, hosts)
    if settings["validation_size"]:
        again = validation_rule(rule, encoded.has_order)
        seed = settings.get("validation_seed", settings["split_seed"])
        chosen = chooser.choose(again, parts == TRAIN, settings["validation_size"], seed, VALIDATION)
        parts[chosen] = VALIDATION
        _check(rule, again, parts, VALIDATION, hosts)
    return parts


def repeated_in_time_of_test(
    encoded: Encoded, parts: np.ndarray, rule: Rule, repeats: Repeats, hosts: Hosts
) -> np.ndarray:
    """Return the rows that `split.repeated_in_test` does, but for ties with the first test row of `temporal`.

    Those count, as all rows of that second are in the test split. The rule is one of `BY_TIME`.
    """
    if not hosts.sum(np.array([len(repeats.first)]))[0]:
        return np.zeros(0, np.int64)
    users, times = (encoded.columns[column].read() for column in ("user_id", "timestamp"))
    test = np.flatnonzero(parts == TEST)
    begins = np.full(int(users.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    rows = np.full(len(begins), -1)
    if rule == "temporal":
        begins[:] = min(hosts.exchange(int(times[test].min(initial=np.iinfo(np.int64).max))))
    else:
        begins[users[test]], rows[users[test]] = times[test], test
    before = (parts[repeats.first] == TRAIN) | (parts[repeats.first] == VALIDATION)
    last = repeats.last[before]
    moments, begin = times[last], begins[users[last]]
    return last[(moments > begin) | ((moments == begin) & (last > rows[users[last]]))]


def pair_draws(users: np.ndarray, items: np.ndarray, seed: int, split: int) -> np.ndarray:
    """Return a uniform number of 64 bits for each pair, by hashes of user and item, seed and split.

    Args:
        users: (n,) uint64 hashes of users.
        items: (n,) uint64 hashes of items.
        seed: Seed of the split.
        split: Number of the split, so that a validation split is not what the test split left of the same
            draws.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), once for each of the three.
    """
    bits = np.full(len(users), np.uint64(seed * len(PARTS) + split))
    for hashes in (np.uint64(0), users, items):
        bits = bits + hashes + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
    return bits


class _Chooser:
    """Chooses rows of a host's interactions by a rule."""

    def __init__(self, encoded: Encoded, hosts: Hosts) -> None:
        self._encoded, self._hosts = encoded, hosts
        self._hashes: dict[str, np.ndarray] = {}

    def choose(self, rule: Rule, among: np.ndarray, share: float, seed: int, split: int) -> np.ndarray:
        """Return which rows are held out, (n,) bool, of those that are `among` them."""
        chosen = np.zeros(len(among), bool)
        if rule == "random":
            limit = np.uint64(math.floor(share * 2**64))
            for rows, draws in self._draws(seed, split):
                chosen[rows] = draws < limit
            return chosen & among
        if rule == "per_user":
            draws = np.concatenate([draws[among[rows]] for rows, draws in self._draws(seed, split)])
            first_half = (draws >> np.uint64(32)).astype(np.uint32)
            chosen[among] = share_by_draws(self._read("user_id", among), first_half, share)
            return chosen
        times = self._read("timestamp", among)
        if rule == "temporal":
            chosen[among] = times >= latest_cut(times, share, self._hosts)
        elif len(times):
            chosen[among] = last_of_each_user(self._read("user_id", among), times)
        return chosen

    def _read(self, column: str, among: np.ndarray) -> np.ndarray:
        values = self._encoded.columns[column].read()
        return values if among.all() else values[among]

    def _draws(self, seed: int, split: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield slices of rows with their draws, see `pair_draws`."""
        of_users, of_items = self._hashed("user_id"), self._hashed("item_id")
        columns = self._encoded.columns
        for rows, users, items in blocks(columns["user_id"], columns["item_id"]):
            yield rows, pair_draws(of_users[users], of_items[items], seed, split)

    def _hashed(self, column: str) -> np.ndarray:
        if column not in self._hashes:
            self._hashes[column] = tie_hashes(self._encoded.ids[column])
        return self._hashes[column]


def latest_cut(times: np.ndarray, share: float, hosts: Hosts) -> int:
    """Return the largest second from which on at least a share of all hosts' rows lie, by bisection.

    Args:
        times: (n,) int64 seconds, of this host.
        share: 0 to 1.
        hosts: All hosts, each of which calls this.
    """
    ordered = np.sort(times)
    ends = [(len(ordered), int(ordered[0]), int(ordered[-1]))] if len(ordered) else []
    of_hosts = [end for each in hosts.exchange(ends) for end in each]
    wanted = math.ceil(share * sum(count for count, _, _ in of_hosts))
    # All rows lie from the first on, none from the second on.
    least, beyond = min(first for _, first, _ in of_hosts), 1 + max(last for _, _, last in of_hosts)
    while beyond - least > 1:
        middle = (least + beyond) // 2
        later = len(ordered) - int(np.searchsorted(ordered, middle))
        if int(hosts.sum(np.array([later]))[0]) >= wanted:
            least = middle
        else:
            beyond = middle
    return least


def _check(asked: Rule, rule: Rule, parts: np.ndarray, cut: int, hosts: Hosts) -> None:
    """Refuse a split that is empty on all hosts: the one that `rule` has cut off, or the training split."""
    counts = hosts.sum(np.array([np.count_nonzero(parts == part) for part in range(len(PARTS))]))
    check_counts(asked, rule, counts, cut)
