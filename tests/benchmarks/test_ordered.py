"""Benchmarks of ordered histories: their made-up data and rows are what their tables say."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("implicit", reason="implicit, a rival, is not installed")
from tests.benchmarks import newcomers, next_rows, ordered


def test_made_up_users_have_as_many_items_as_asked_for_each_once_and_an_hour_apart(tmp_path: Path) -> None:
    words = next_rows.made_up(tmp_path, users=5, items=53, length=40)
    table = pq.read_table(words[words.index("--data.interactions") + 1]).to_pandas()
    assert table.groupby("user_id").item_id.nunique().tolist() == [40] * 5
    assert table.item_id.between(0, 52).all()
    assert (table.groupby("user_id").timestamp.diff().dropna() == 3600).all()


def test_data_without_times_have_no_rows_on_decay_by_time() -> None:
    timed, untimed = (ordered.rows_of(board, None) for board in ("ml-100k-last", "beauty"))
    assert set(timed) - set(untimed) == {"decay by position alone", "decay by time alone"}
    assert ordered.rows_of("beauty", ["table tied"]) == ["as shipped", "table tied"]


def test_a_row_stands_as_a_share_of_the_first_one_with_the_same_seed() -> None:
    def run(ndcg: float) -> dict[str, float]:
        return {"ndcg@10": ndcg, "recall@10": 0.5, "seconds": 2.0}

    rows = {"as shipped": [run(0.1), run(0.2)], "table tied": [run(0.05), run(0.18)]}
    header, first, second = ordered.show("board", rows).splitlines()
    assert header.split() == ["board", "ndcg@10", "recall@10", "of", "recipe", "train,", "s"]
    assert first.split()[-2:] == ["1.000", "2.0"]
    assert second.split()[-2:] == ["0.700", "2.0"]  # (0.05 / 0.1 + 0.18 / 0.2) / 2


def test_histories_of_newcomers_keep_the_order_of_their_pairs() -> None:
    # Item 5 is not in the training; items 6 to 9 have rows 1, 2, 3 and 0 there.
    pairs = newcomers.Pairs(np.array([2, 2, 2, 4, 4, 7]), np.array([8, 5, 7, 9, 6, 9]))
    place = np.array([-1, -1, -1, -1, -1, -1, 1, 2, 3, 0])
    lengths, items = pairs.histories(np.array([2, 4]), place)
    assert (lengths.tolist(), items.tolist()) == ([2, 2], [3, 2, 0, 1])
    lengths, items = pairs.lists(np.array([2, 4]), place)
    assert (lengths.tolist(), items.tolist()) == ([2, 2], [2, 3, 0, 1])
