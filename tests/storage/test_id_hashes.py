"""Rows of ids by two hashes: against SipHash in plain Python, and collisions counted by hand."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.storage import id_hashes
from trainer.storage.attributes import Ragged
from trainer.storage.id_hashes import (
    KEYS,
    Collisions,
    collisions,
    collisions_report,
    collisions_text,
    expected_collisions,
    hashed_bags,
    hashed_rows,
    ids_sharing,
)

WORD = 2**64 - 1


def siphash(data: bytes, key: bytes) -> int:
    """SipHash-2-4, after the paper."""

    def rotated(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & WORD

    k0, k1 = (int.from_bytes(key[start : start + 8], "little") for start in (0, 8))
    a, b, c, d = (
        half ^ word
        for half, word in zip(
            (k0, k1, k0, k1),
            (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573),
            strict=True,
        )
    )
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    words = [int.from_bytes(padded[start : start + 8], "little") for start in range(0, len(padded), 8)]
    for word in [*words, None]:
        if word is None:
            c ^= 0xFF
        else:
            d ^= word
        for _ in range(2 if word is not None else 4):
            a = a + b & WORD
            b = rotated(b, 13) ^ a
            a = rotated(a, 32)
            c = c + d & WORD
            d = rotated(d, 16) ^ c
            a = a + d & WORD
            d = rotated(d, 21) ^ a
            c = c + b & WORD
            b = rotated(b, 17) ^ c
            c = rotated(c, 32)
        if word is not None:
            a ^= word
    return a ^ b ^ c ^ d


def mixed(value: int) -> int:
    """The last step of SplitMix64."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & WORD
    return value ^ value >> 31


def rows_by_hand(text: str, rows: int) -> list[int]:
    first, second = (mixed(siphash(text.encode(), key.encode())) for key in KEYS)
    first %= rows
    return [first, (first + 1 + second % (rows - 1)) % rows]


def pairs(*bags: tuple[int, ...]) -> Ragged:
    lengths = [len(bag) for bag in bags]
    values = np.array([row for bag in bags for row in bag], np.int32)
    return Ragged(np.append(0, np.cumsum(lengths)), values)


def test_the_reference_is_siphash_of_the_paper() -> None:
    # Appendix A of the paper: the key is 00 to 0f, the message 00 to 0e.
    assert siphash(bytes(range(15)), bytes(range(16))) == 0xA129CA6149BE45E5


@pytest.mark.parametrize("rows", [2, 7, 512, 2**31 - 2])
def test_rows_are_those_of_the_published_hash(rows: int) -> None:
    texts = ["1", "196", "customer 7", "", "Zoë 東京", "0" * 100]
    expected = [rows_by_hand(text, rows) for text in texts]
    assert hashed_rows(pa.array(texts), rows).tolist() == expected


def test_rows_never_change() -> None:
    # Tables of runs that people have depend on these.
    assert hashed_rows(pa.array(["1", "2", "196", "sku-1"]), 1000).tolist() == [
        [277, 979],
        [966, 243],
        [168, 271],
        [363, 755],
    ]


def test_an_id_has_the_same_rows_as_a_number_and_as_text() -> None:
    numbers = pa.array([1, 196, -5, 2**62])
    assert hashed_rows(numbers, 100).tolist() == hashed_rows(numbers.cast(pa.string()), 100).tolist()


def test_rows_of_an_id_do_not_depend_on_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pa.array([f"user {number}" for number in range(10)])
    together = hashed_rows(ids, 50)
    monkeypatch.setattr(id_hashes, "HASHED_AT_ONCE", 3)
    assert hashed_rows(ids, 50).tolist() == together.tolist()
    assert hashed_rows(ids.slice(4, 2), 50).tolist() == together[4:6].tolist()
    assert hashed_rows(ids.slice(0, 0), 50).shape == (0, 2)


def test_two_rows_are_the_only_pair_of_a_table_of_two() -> None:
    assert {tuple(sorted(pair)) for pair in hashed_rows(pa.array(range(20)), 2).tolist()} == {(0, 1)}


def test_the_two_hashes_are_independent_and_never_give_the_same_row() -> None:
    found = hashed_rows(pa.array(range(56_000)), 8)
    counts = np.zeros((8, 8))
    np.add.at(counts, (found[:, 0], found[:, 1]), 1)
    assert np.diag(counts).tolist() == [0] * 8
    # 56 ordered pairs, 1,000 ids expected in each: chi-squared of 55 degrees of freedom, 93 once in 1,000.
    others = counts[~np.eye(8, dtype=bool)]
    assert ((others - 1000) ** 2 / 1000).sum() < 93


def test_bags_end_with_the_reserved_row_and_ids_may_have_it_alone() -> None:
    ids = pa.array(["a", "b", "c"])
    own = hashed_rows(ids, 9).tolist()
    assert bags_of(hashed_bags(ids, 9)) == [*own, [9]]
    assert bags_of(hashed_bags(ids, 9, np.array([False, True, False]))) == [own[0], [9], own[2], [9]]
    assert bags_of(hashed_bags(ids.slice(0, 0), 9)) == [[9]]


def bags_of(ragged: Ragged) -> list[list[int]]:
    return [part.tolist() for part in np.split(ragged.values, ragged.offsets[1:-1])]


def test_collisions_are_counted_whichever_row_comes_first() -> None:
    # The first two share both rows, and so do the fourth to sixth; the third and the last share one each.
    bags = pairs((0, 1), (1, 0), (0, 2), (3, 4), (3, 4), (4, 3), (2, 4), (5,))
    assert collisions(bags) == Collisions(ids=7, rows=5, sharing_both=5, ids_per_row=14 / 5)
    # Ids with the reserved row alone are not hashed.
    assert collisions(pairs((0, 1), (5,), (5,))) == Collisions(1, 5, 0, 2 / 5)


def test_ids_that_share_a_row_count_once() -> None:
    bags = pairs((0, 1), (1, 0), (0, 2), (3, 4), (5,))
    assert [ids_sharing(bags, np.array(rows)) for rows in ([0, 1], [2, 4], [3, 4], [2, 3])] == [3, 2, 1, 2]


@pytest.mark.parametrize(("ids", "rows"), [(3000, 64), (3000, 1000), (10, 2)])
def test_expected_collisions_are_about_those_that_are_counted(ids: int, rows: int) -> None:
    counted, expected = collisions(hashed_bags(pa.array(range(ids)), rows)), expected_collisions(ids, rows)
    assert (expected.ids, expected.rows, expected.ids_per_row) == (ids, rows, counted.ids_per_row)
    assert abs(counted.sharing_both - expected.sharing_both) <= 4 * ids**0.5


def test_expected_collisions_of_few_ids_are_counted_by_hand() -> None:
    # 2 of 2 ids share both rows if they have the same one of 3 pairs: 2 / 3, rounded.
    assert expected_collisions(2, 3).sharing_both == 1
    assert expected_collisions(1, 3).sharing_both == 0


def test_collisions_are_told_in_a_sentence_and_in_figures() -> None:
    some = Collisions(943, 512, 3, 943 * 2 / 512)
    assert collisions_text("user", some) == (
        "user ids: 943 in 512 rows by two hashes; 3 share both rows with another; a row has 3.7 ids on "
        "average."
    )
    assert "; about 3 share both" in collisions_text("user", some, expected=True)
    many = Collisions(2_000_000_000, 1_000_000, 1, 4000.0)
    assert "; 1 shares both rows with another; a row has 4,000 ids on" in collisions_text("item", many)
    assert "a row has 1 id on average" in collisions_text("item", Collisions(5, 10, 0, 1.0))
    figures = {"ids": 943, "rows": 512, "sharing_both": 3, "ids_per_row": 3.68359375}
    assert collisions_report({"user": some}) == {"hashed": {"user": figures}}
    assert collisions_report({}) == {}
