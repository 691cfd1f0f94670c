import numpy as np
import pytest

from trainer.errors import DataError
from trainer.sources.vector_files import read_vectors

VECTORS = np.arange(6, dtype=np.float64).reshape(3, 2) / 4


def test_vectors_and_ids_stand_in_one_file_or_in_two(tmp_path):
    np.savez(tmp_path / "one.npz", ids=["a", "b", "c"], vectors=VECTORS)
    np.save(tmp_path / "two.npy", VECTORS.astype(np.float16))
    np.save(tmp_path / "two_ids.npy", np.array([7, 8, 9], np.uint16))
    one, two = (read_vectors("--data.item_vectors.x", tmp_path / name) for name in ("one.npz", "two.npy"))
    assert one["vector"].to_pylist() == two["vector"].to_pylist() == [[0, 0.25], [0.5, 0.75], [1, 1.25]]
    assert (one["id"].to_pylist(), two["id"].to_pylist()) == (["a", "b", "c"], [7, 8, 9])


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"ids": [1, 2, 3]}, "holds no array `vectors`. Save one with np.savez"),
        ({"ids": [1, 2], "vectors": VECTORS}, "2 ids for 3 vectors, expected as many"),
        ({"ids": [1, 2, 3], "vectors": VECTORS[0]}, r"vectors have shape \(2,\) and type float64, expected"),
        ({"ids": [1.0, 2.0, 3.0], "vectors": VECTORS}, r"ids have shape \(3,\) and type float64, expected"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, arrays, fault):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=fault):
        read_vectors("--data.item_vectors.x", tmp_path / "x.npz")


def test_a_missing_file_of_ids_is_named(tmp_path):
    np.save(tmp_path / "x.npy", VECTORS)
    with pytest.raises(DataError, match=r"x_ids.npy: no such file. Save one with np.savez"):
        read_vectors("--data.item_vectors.x", tmp_path / "x.npy")


def test_python_objects_are_refused_and_not_run(tmp_path):
    np.savez(tmp_path / "x.npz", ids=np.array(["a", None, "c"], object), vectors=VECTORS)
    with pytest.raises(DataError, match="it holds Python objects"):
        read_vectors("--data.item_vectors.x", tmp_path / "x.npz")
