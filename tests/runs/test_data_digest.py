"""By what a run knows its data again."""

from pathlib import Path

import pyarrow as pa

from tests import worlds
from trainer.runs.data_digest import data_digests

PAIRS = [(1, 51), (2, 52)], [(1, 52)]


def test_numbers_have_a_digest_of_their_own(tmp_path: Path) -> None:
    one, other, none = (
        data_digests(worlds.dataset(tmp_path / str(number), *PAIRS, items=items))
        for number, items in enumerate(
            [
                pa.table({"item_id": [51, 52], "price": [0.5, 1.5]}),
                pa.table({"item_id": [51, 52], "price": [0.5, 2.5]}),
                None,
            ]
        )
    )
    assert one["numbers"] != other["numbers"]
    assert one["attributes"] == other["attributes"] == none["attributes"]
    assert "numbers" not in none
