"""Preparing by hosts that share users, beside one host that has them all."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.distributed.ranks import outcomes_on_ranks, run_on_ranks
from tests.shares.hosts import configured, facts, interactions, merged, prepared, write_partitioned
from trainer.config.parser import parse_config
from trainer.config.schema import DataConfig
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.errors import DataError
from trainer.shares.source import Buckets, buckets_of, own_rows
from trainer.sources.schema import SourceTables
from trainer.storage.user_buckets import MANIFEST, user_buckets

CLEANED = ("--data.min_value", "2", "--data.k_core", "9", "--data.validation_size", "0.2")
SPLITS = ("leave_last_out", "temporal", "per_user", "random")


def prepare_all(world, root, cases):
    """Every case on the same ranks, by name and by ranks a host."""
    return {
        name: {local: prepared(world, root / "caches" / name, local, config) for local in hosts}
        for name, (config, hosts) in cases.items()
    }


def cases(root):
    """Configuration and ranks a host, of four ranks: by split, of partitioned folders, and of mixed ids."""
    first = configured(*CLEANED, "--data.split", "leave_last_out", "--data.interactions", "F")

    def of(file, split, **values):
        data = replace(first.data, interactions=str(root / file), split=split, **values)
        return replace(first, data=data)

    plain = {
        "leave_last_out": (4, 2, 1),
        "temporal": (4, 2),
        "per_user": (4, 2),
        "random": (4, 2),
    }
    return {split: (of("plain.parquet", split), hosts) for split, hosts in plain.items()} | {
        "partitioned": (of("host-{host}", "leave_last_out"), (2,)),
        "mixed": (of("mixed-{host}", "none", validation_size=0.0, min_value=None, k_core=0), (2,)),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank found, by case and ranks a host; and the folder."""
    root = tmp_path_factory.mktemp("shares")
    table = interactions()
    pq.write_table(table, root / "plain.parquet")
    buckets = np.arange(16)
    for host in (0, 2):  # first ranks of two hosts of two ranks; each has its own files alone
        kept = buckets[np.isin(buckets % 4, [host, host + 1])].tolist()
        write_partitioned(root / f"host-{host}", table, 16, kept)
        # Items are whole numbers on one host, and one of them is none on the other.
        named = pa.array([f"i{item}" for item in table["item_id"].to_pylist()])
        texts = table if host == 0 else table.set_column(1, "item_id", named)
        write_partitioned(root / f"mixed-{host}", texts, 16, kept)
    of_ranks = run_on_ranks(4, prepare_all, root, cases(root))
    hosts = {
        case: {local: [rank[case][local] for rank in of_ranks[::local]] for local in by_local}
        for case, by_local in of_ranks[0].items()
    }
    return SimpleNamespace(root=root, table=table, **hosts)


def alone(found, *options):
    """What one host with all users prepares."""
    data = ["--data.name", "files", "--data.interactions", str(found.root / "plain.parquet")]
    config = parse_config([*data, "--data.cache", str(found.root / "alone"), *options])
    return facts(open_dataset(prepare_data(config.data)))


def test_hosts_together_hold_what_one_host_does(found):
    expected = alone(found, *CLEANED, "--data.split", "leave_last_out")
    for hosts in found.leave_last_out.values():
        assert merged(hosts) == expected["splits"]
        for host in hosts:
            assert host["popularity"] == {item: expected["popularity"][item] for item in host["items"]}
            assert sorted(host["items"]) == sorted(expected["items"])
            counted = ("read", "below_min_value", "duplicates", "outside_k_core", "repeats_dropped", "train")
            assert [host["report"][name] for name in counted] == [
                expected["report"][name] for name in counted
            ]


def test_a_k_core_was_taken_that_no_host_could_take_alone(found):
    # The k-core of each host's own rows by themselves is another one: items are rarer there.
    report = found.leave_last_out[2][0]["report"]
    assert report["outside_k_core"] > 0
    pairs = set().union(*merged(found.leave_last_out[2]).values())
    for side in (0, 1):
        counts = np.unique([str(pair[side]) for pair in pairs], return_counts=True)[1]
        assert counts.min() >= 9


def test_numbers_of_users_depend_on_ranks_and_not_on_hosts(found):
    for split in SPLITS:
        one, *others = found.__dict__[split].values()
        for hosts in others:
            assert merged(hosts) == merged(one), split
            for host in hosts:
                same = ("cuts", "digests", "items", "lengths", "popularity")
                assert [host[name] for name in same] == [one[0][name] for name in same], split
            rows = zip(*(host["users"] for host in hosts), strict=True)
            assert [next(filter(None, ids)) for ids in rows] == one[0]["users"]


def test_users_stand_by_rank_and_then_by_raw_id(found):
    one = found.leave_last_out[4][0]
    buckets = user_buckets(pa.array(one["users"]), 4).tolist()
    assert list(zip(buckets, one["users"], strict=True)) == sorted(zip(buckets, one["users"], strict=True))
    assert one["cuts"] == [0, *np.cumsum(np.bincount(buckets, minlength=4)).tolist()]
    assert one["items"] == sorted(one["items"])


def test_a_host_has_ids_of_its_own_users_alone(found):
    for host, (first, last) in zip(found.leave_last_out[2], ((0, 2), (2, 4)), strict=True):
        cuts = host["cuts"]
        known = [row for row, user in enumerate(host["users"]) if user is not None]
        assert known == [*range(cuts[first], cuts[last])]


def test_a_split_by_time_cuts_all_hosts_at_one_second(found):
    times: dict[tuple[str, int], int] = {}
    kept = set().union(*merged(found.temporal[2]).values())
    for user, item, value, time in zip(*found.table.to_pydict().values(), strict=True):
        if value >= 2 and (user, item) in kept:
            times[user, item] = min(time, times.get((user, item), time))  # of repeats the first counts
    parts = merged(found.temporal[2])
    for earlier, later, share in (("train", "validation", 0.2 * 0.8), ("validation", "test", 0.2)):
        cut = min(times[pair] for pair in parts[later])
        assert max(times[pair] for pair in parts[earlier]) < cut
        # Without the rows of the cut's own second there are too few.
        beyond = sum(times[pair] > cut for pair in parts[later])
        assert beyond < share * len(kept) <= len(parts[later]) + 1


def test_random_splits_take_their_share_and_have_no_pair_twice(found):
    pairs = {split: merged(found.__dict__[split][2]) for split in ("random", "per_user")}
    count = sum(map(len, pairs["random"].values()))
    # Binomial: standard deviation sqrt(n 0.2 0.8).
    assert abs(len(pairs["random"]["test"]) - 0.2 * count) < 4 * np.sqrt(count * 0.16)
    of_user: dict[str, list[int]] = {}
    for place, split in enumerate(("train", "validation", "test")):
        for user, _ in pairs["per_user"][split]:
            of_user.setdefault(user, [0, 0, 0])[place] += 1
    for counts in of_user.values():
        assert counts[2] == int(0.2 * sum(counts) + 0.5)


def test_a_partitioned_folder_gives_what_a_plain_file_does_though_each_host_has_its_own_files(found):
    plain, partitioned = found.leave_last_out[2], found.partitioned[2]
    for one, other in zip(plain, partitioned, strict=True):
        same = ("splits", "users", "items", "cuts", "digests", "popularity")
        assert [one[name] for name in same] == [other[name] for name in same]


def test_ids_are_texts_on_all_hosts_if_they_are_on_one(found):
    for host in found.mixed[2]:
        assert {type(item) for item in host["items"]} == {str}
        assert any(item.startswith("i") for item in host["items"])
        assert any(item.isdecimal() for item in host["items"])


def told(outcomes):
    assert {type(outcome) for outcome in outcomes} == {DataError}
    assert len({str(outcome) for outcome in outcomes}) == 1
    return str(outcomes[0])


def test_what_one_host_lacks_ends_all_hosts_with_one_line(found, tmp_path):
    file = found.root / "host-{host}" / "user_bucket=0" / "part-0.parquet"
    config = configured("--data.interactions", str(file))
    line = told(outcomes_on_ranks(2, prepared, tmp_path, 1, config))
    assert line.startswith(
        f"--data.interactions {found.root}/host-1/user_bucket=0/part-0.parquet: no such file"
    )
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ('{"buckets": 2, "hash": "siphash-2-4:shardtower:usr:1"}', "partitioned into 2 buckets of users"),
        ('{"buckets": 16, "hash": "murmur3"}', "is partitioned by murmur3, expected siphash-2-4"),
        ("{}", "says neither `buckets` nor `hash`"),
    ],
)
def test_a_folder_partitioned_in_another_way_is_refused(tmp_path, manifest, said):
    (tmp_path / MANIFEST).write_text(manifest)
    with pytest.raises(DataError, match=said):
        buckets_of(DataConfig(name="files", interactions=str(tmp_path)), 3)


def test_users_in_a_folder_of_another_bucket_are_named(tmp_path):
    rows = pa.table({"user_id": ["1", "2"], "item_id": ["a", "b"]}).to_batches()
    own = user_buckets(pa.array(["1"]), 64)[0] % 2  # 19 and 52: one of each share
    source = own_rows(SourceTables(iter(rows)), Buckets(64, 2, partitioned=True), [own], "files")
    with pytest.raises(DataError, match=r"files: user '2' is in a folder of another bucket"):
        list(source.interactions)
