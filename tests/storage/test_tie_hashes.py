"""Hashes that order items of equal scores are the same in every version and on every machine."""

import pyarrow as pa
import pytest

from trainer.storage.tie_hashes import tie_hashes

IDS = ["7", "a,119", "", "東京", "x" * 40]
HASHES = [
    11574497865841987289,
    8716365882840558565,
    11979738929702503169,
    15796280923868094319,
    11676842950213129492,
]
"""Of IDS with key 42, by `hashlib.blake2b(text, digest_size=8, key=b"42")`, the first byte the highest."""


def test_hashes_are_blake2b_of_the_id_as_text_the_same_in_every_version() -> None:
    assert tie_hashes(pa.array(IDS)).tolist() == HASHES
    assert tie_hashes(pa.array([7])).tolist() == HASHES[:1]


def test_many_ids_are_hashed_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pa.array([f"item {number}" for number in range(10)])
    whole = tie_hashes(ids).tolist()
    monkeypatch.setattr("trainer.storage.tie_hashes.HASHED_AT_ONCE", 3)
    assert tie_hashes(ids).tolist() == whole
