"""Stored vectors read back, whole or in blocks."""

from pathlib import Path

import numpy as np
import pytest

from trainer.recommender import vectors
from trainer.recommender.vectors import VectorTable, dimension_scale, quantise


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", [0.1, -4.0]), ("float16", [np.float16(0.1), -4.0]), ("int8", [13 / 127, -4.0])],
)
def test_a_type_gives_back_what_it_can_hold(dtype: str, expected: list[float]) -> None:
    # The first dimension goes to 1, so that 0.1 is step 12.7 of 127, rounded 13.
    exact = np.array([[0.1, -4], [1, 2]], np.float32)
    scale = dimension_scale(np.abs(exact).max(0)) if dtype == "int8" else None
    table = VectorTable(quantise(exact, dtype, scale), scale)
    assert table.rows(np.array([0]))[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_dimension_of_zeros_has_a_scale_that_keeps_it_zero() -> None:
    scale = dimension_scale(np.array([0, 12.7], np.float32))
    assert scale.tolist() == pytest.approx([1, 0.1])
    assert quantise(np.array([[0, 12.7]], np.float32), "int8", scale).tolist() == [[0, 127]]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_scores_in_blocks_are_those_of_the_whole(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    exact, query = generator.normal(size=(50, 8)).astype(np.float32), np.ones(8, np.float32)
    scale = dimension_scale(np.abs(exact).max(0)) if dtype == "int8" else None
    np.save(tmp_path / "vectors.npy", quantise(exact, dtype, scale))
    if scale is not None:
        np.save(tmp_path / "scale.npy", scale)
    whole = VectorTable.open(tmp_path / "vectors.npy", tmp_path / "scale.npy").scores(query)
    monkeypatch.setattr(vectors, "CONVERTED_BYTES", 0)
    monkeypatch.setattr(vectors, "BLOCK", 7)
    table = VectorTable.open(tmp_path / "vectors.npy", tmp_path / "scale.npy")
    assert [rows.stop - rows.start for rows, _ in table.blocks()] == [*[7] * 7, 1]
    assert np.array_equal(table.scores(query), whole)
