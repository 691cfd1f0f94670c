"""Buckets of users by a hash of their raw ids."""

import json

import numpy as np
import pyarrow as pa

from trainer.storage.user_buckets import HASH, bucket_folder, manifest_text, user_buckets


def test_buckets_of_known_ids_never_change() -> None:
    # Folders that were partitioned yesterday are read by these buckets tomorrow.
    ids = pa.array(["1", "2", "3", "alice", "zoë", ""])
    assert user_buckets(ids, 64).tolist() == [19, 52, 12, 18, 6, 56]


def test_a_whole_number_has_the_bucket_of_its_text() -> None:
    numbers = pa.array([1, 2, 3, 10**12], pa.int64())
    assert np.array_equal(user_buckets(numbers, 1000), user_buckets(numbers.cast(pa.string()), 1000))


def test_each_bucket_has_about_as_many_users() -> None:
    counts = np.bincount(user_buckets(pa.array(np.arange(64_000)), 64), minlength=64)
    # Binomial of 64,000 draws and chance 1/64: mean 1,000, standard deviation 31.4.
    assert counts.sum() == 64_000
    assert np.abs(counts - 1_000).max() < 5 * 31.4


def test_a_partitioned_folder_names_its_buckets_and_its_hash() -> None:
    assert json.loads(manifest_text(16)) == {"buckets": 16, "hash": HASH}
    assert bucket_folder(3) == "user_bucket=3"
