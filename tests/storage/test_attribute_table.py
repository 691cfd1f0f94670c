import numpy as np
import pyarrow as pa

from trainer.storage.attribute_table import attribute_table
from trainer.storage.attributes import DenseFeature, Feature, encode_attribute


def feature(name: str, values: list) -> Feature:
    encoded = encode_attribute(name, pa.chunked_array([pa.array(values)]))
    assert isinstance(encoded, Feature)
    return encoded


def test_values_come_back_as_they_were_read() -> None:
    genres = [["Drama"], ["Comedy", "Drama"], [], None]
    years = [1990, None, 1996, 1990]
    table = attribute_table({"genres": feature("genres", genres), "year": feature("year", years)}, {}, 4)
    assert table["genres"].to_pylist() == genres
    assert table["year"].to_pylist() == years


def test_numbers_are_kept_and_vectors_left_out() -> None:
    dense = {
        "price": DenseFeature("price", np.array([[1.5], [np.nan]], np.float32), np.zeros(1, np.float32), 1.0),
        "picture": DenseFeature("picture", np.ones((2, 3), np.float32), np.zeros(3, np.float32), 1.0),
    }
    table = attribute_table({}, dense, 2)
    assert table.to_pydict() == {"price": [1.5, None]}


def test_the_row_of_unknown_items_is_no_item() -> None:
    table = attribute_table({"colour": feature("colour", ["red", "blue", None])}, {}, 2)
    assert table["colour"].to_pylist() == ["red", "blue"]
