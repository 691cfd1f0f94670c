"""Attributes from files to the error that names one which cannot be used."""

import numpy as np
import pyarrow as pa
import pytest

from tests import worlds
from trainer.batching.tower_inputs import make_inputs
from trainer.cli import main
from trainer.config.parser import parse_config
from trainer.errors import ConfigError

PAIRS = [(1001, 51), (1002, 52), (1003, 53)], [(1001, 52)]


def items(**columns):
    return pa.table({"item_id": [51, 52, 53], **columns})


def test_what_was_understood_stands_beside_the_data(tmp_path):
    table = items(price=[0.5, None, 2.5], genres=[["a"], ["a", "b"], []], shape=[[0.5], [1.5, 2.5], [1.0]])
    data = worlds.dataset(tmp_path, *PAIRS, items=table)
    assert data.attributes == {
        "user": {},
        "item": {
            "price": "number, mean 1.5, deviation 1, 1 of 3 missing",
            "genres": "list, 2 different, 1.0 a row, 0 of 3 missing",
            "shape": "left out, as its lists have different lengths (1 and 2), and vectors have one",
        },
    }
    assert (list(data.item_features), list(data.item_dense)) == (["genres"], ["price"])


def test_an_attribute_that_was_left_out_is_refused_with_the_reason(tmp_path):
    data = worlds.dataset(tmp_path, *PAIRS, items=items(price=[0.5, None, 2.5], same=[1.5, 1.5, 1.5]))
    with pytest.raises(
        ConfigError, match="features same: was left out, as all of its values are the same; it"
    ):
        make_inputs(parse_config(["--model.item_features", "same"]), data)
    with pytest.raises(ConfigError, match="features other: no such attribute in world; it has price"):
        make_inputs(parse_config(["--model.item_features", "other"]), data)


def test_a_query_tower_of_numbers_alone_is_refused(tmp_path):
    users = pa.table({"user_id": [1001, 1002, 1003], "income": [1.5, 2.5, 3.5]})
    data = worlds.dataset(tmp_path, *PAIRS, users=users)
    with pytest.raises(ConfigError, match="the query tower needs a table, and user_income have none"):
        make_inputs(parse_config(["--model.user_id", "false", "--model.user_features", "income"]), data)


def test_unknown_users_have_missing_numbers(tmp_path):
    users = pa.table({"user_id": [1003, 1001, 9], "income": [1.5, 2.5, 3.5]})
    values = worlds.dataset(tmp_path, *PAIRS, users=users).user_dense["income"].values
    np.testing.assert_array_equal(values[:, 0], np.array([2.5, np.nan, 1.5, np.nan], np.float32))


def prepared(tmp_path, capsys, *options):
    data = worlds.options(tmp_path, *PAIRS)
    status = main(["prepare", *data, *options])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return status, printed.out + printed.err


def test_vectors_of_a_file_are_aligned_by_id_and_counted(tmp_path, capsys):
    np.savez(tmp_path / "image.npz", ids=[53, 51, 7], vectors=np.eye(3))
    status, text = prepared(tmp_path, capsys, "--data.item_vectors.image", str(tmp_path / "image.npz"))
    assert (status, "  image: vector of 3 numbers, 1 of 3 missing" in text) == (0, True)


@pytest.mark.parametrize(
    ("ids", "options", "fault"),
    [
        (["a", "b"], [], "none of its 2 ids (such as a) is among the items of the interactions (such as 51)"),
        ([51, 51], [], "attributes: id 51 has more than one row"),
        (
            [51, 52],
            ["--data.attribute_kinds.colour", "number"],
            "the data have no such attribute; it has image",
        ),
        ([51, 52], ["--data.attribute_kinds.image", "list"], "list: left out, as"),
        ([51, 52], ["--data.attribute_kinds.image", "buckets:1"], "one of category, list, number, buckets"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path, capsys, ids, options, fault):
    np.savez(tmp_path / "image.npz", ids=ids, vectors=np.eye(2))
    given = ["--data.item_vectors.image", str(tmp_path / "image.npz"), *options]
    status, text = prepared(tmp_path, capsys, *given)
    assert status == 2
    assert fault in text
    assert len(text.strip().splitlines()) == 1
