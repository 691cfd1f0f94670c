"""Users in buckets by a hash of their raw ids: what decides which host of `--data.share users` reads whom.

A bucket depends on nothing but the id's text and the number of buckets, so that whoever partitions a folder
of interactions (Spark, a warehouse) and whoever reads it agree on it without a word. A folder is partitioned
by it where its top holds `_user_buckets.json` and its part files lie in folders named `user_bucket=0`,
`user_bucket=1`, ..., one a bucket.

No package but numpy, pandas and pyarrow is imported, as workers of a Spark job import this file too.
"""

import json

import numpy as np
import pandas as pd
import pyarrow as pa

from trainer.tables.folders import BUCKET as COLUMN
from trainer.tables.folders import MANIFEST

__all__ = ["COLUMN", "HASH", "MANIFEST", "bucket_folder", "manifest_text", "user_buckets"]

KEY = "shardtower:usr:1"
"""Key of the hash, 16 bytes. It is another one than those of `id_hashes`, so that the users of a bucket are
spread over all rows of a hashed table."""
HASH = f"siphash-2-4:{KEY}"
"""How a folder names the hash by which it is partitioned."""
HASHED_AT_ONCE = 2**20
"""Ids that are Python strings at a time."""


def user_buckets(ids: pa.Array, count: int) -> np.ndarray:
    """Return the bucket of each raw id, (n,) int32 from 0 to below `count`.

    Args:
        ids: Raw ids, without nulls; integers are hashed as their text, so that 7 and "7" share a bucket.
        count: Number of buckets, at least 1.

    Source: SipHash-2-4 (Aumasson and Bernstein, INDOCRYPT 2012), mixed as in `pandas.util.hash_array`.
    """
    found = np.empty(len(ids), np.int32)
    for start in range(0, len(ids), HASHED_AT_ONCE):
        texts = ids.slice(start, HASHED_AT_ONCE).cast(pa.string()).to_numpy(zero_copy_only=False)
        hashes = pd.util.hash_array(texts.astype(object), hash_key=KEY, categorize=False)
        found[start : start + len(texts)] = hashes % np.uint64(count)
    return found


def manifest_text(count: int) -> str:
    """Return what `_user_buckets.json` holds in a folder partitioned into `count` buckets."""
    return json.dumps({"buckets": count, "hash": HASH}) + "\n"


def bucket_folder(bucket: int) -> str:
    """Return the name of the subfolder that holds the part files of a bucket."""
    return f"{COLUMN}={bucket}"
