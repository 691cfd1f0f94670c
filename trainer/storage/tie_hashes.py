"""Hashes of raw ids by which items of equal scores are ranked; `trainer.evaluation.tie_order` says why."""

import hashlib

import numpy as np
import pyarrow as pa

SEED = 42
"""Seed of the hash. Weights of baselines are cached by place, so that a new seed needs a new `VERSION` both
in `trainer.evaluation.tie_order` and there."""
ORDERS = 32
"""Orders that a model's users are divided among, by a hash of their raw ids: the same circle of items,
entered at 32 places. In a single order, a model that prefers nothing is as good as its first items are
popular: half as good as chance, or twice."""
HASHED_AT_ONCE = 2**20
"""Ids that are Python strings at a time."""


def tie_hashes(ids: pa.Array) -> np.ndarray:
    """Return a hash of each raw id as text, (n,) uint64; of equal scores the lower hash ranks first.

    Source: BLAKE2b with a key (RFC 7693).
    """
    hashes, key = np.empty(len(ids), np.uint64), str(SEED).encode()
    for start in range(0, len(ids), HASHED_AT_ONCE):
        texts = ids.slice(start, HASHED_AT_ONCE).cast(pa.string()).to_pylist()
        digests = (hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts)
        hashes[start : start + len(texts)] = np.frombuffer(b"".join(digests), ">u8")
    return hashes


def first_hashes(user_ids: pa.Array) -> np.ndarray:
    """Return the hash at which the order of each user's items begins, (n,) uint64, see `ORDERS`.

    Hashes below it come after all others: items are ordered by their hashes less this one, modulo 2**64.
    """
    return tie_hashes(user_ids) % np.uint64(ORDERS) * np.uint64(2**64 // ORDERS)
