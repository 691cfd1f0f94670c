"""The closed-form two-tower against its formula written out, and on a world with a known answer."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse

from tests import worlds
from trainer.closed_form import edlae as low_rank
from trainer.closed_form import gram_inverse
from trainer.closed_form.edlae import Regression, cached_towers, closed_form_files, closed_form_towers
from trainer.closed_form.gram_inverse import gram_factors, inverse_by_factors
from trainer.config.size_defaults import FIXED_PENALTY


def random_interactions(users: int = 60, items: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero(np.random.default_rng(3).random((users, items)) < 0.3)


def communities() -> tuple[np.ndarray, np.ndarray]:
    """300 users and 120 items in 6 communities: half of one's own items, a twentieth of the others."""
    own = np.arange(300)[:, None] % 6 == np.arange(120) % 6
    return np.nonzero(np.random.default_rng(5).random((300, 120)) < np.where(own, 0.5, 0.05))


def regression_written_out(users: np.ndarray, items: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """B of the docstring with the default settings, by dense matrices."""
    x = np.zeros(shape)
    x[users, items] = 1
    n = x.sum(1)
    w = np.maximum(n, 1) ** -0.7
    w *= n.sum() / (w @ n)
    inverse = np.linalg.inv(x.T @ np.diag(w) @ x + np.diag(300 + 0.4 / 0.6 * (x.T @ w)))
    b = -inverse / np.diag(inverse)
    np.fill_diagonal(b, 0)
    return b


def test_at_full_rank_it_is_the_regression_itself() -> None:
    users, items = random_interactions()
    history, vectors = closed_form_towers(users, items, 60, 12, rank=12)
    expected = regression_written_out(users, items, (60, 12))
    np.testing.assert_allclose(history @ vectors.T, expected, atol=1e-6)


def test_item_vectors_are_the_leading_right_singular_vectors_of_the_weighted_prediction() -> None:
    users, items = random_interactions()
    _, vectors = closed_form_towers(users, items, 60, 12, rank=3)
    x = np.zeros((60, 12))
    x[users, items] = 1
    n = x.sum(1)
    w = n**-0.7 * n.sum() / (n**0.3).sum()
    prediction = np.sqrt(w)[:, None] * x @ regression_written_out(users, items, (60, 12))
    expected = np.linalg.svd(prediction)[2][:3]
    # The same subspace: projections agree whatever the signs.
    np.testing.assert_allclose(vectors @ vectors.T, expected.T @ expected, atol=1e-4)


@pytest.mark.parametrize("exact_size", [100, 0], ids=["inverted", "by eigenvectors"])
@pytest.mark.parametrize("shape", [(60, 12), (12, 60)], ids=["fewer items", "fewer users"])
def test_each_way_to_the_inverse_gives_the_regression(exact_size: int, shape: tuple[int, int]) -> None:
    users, items = random_interactions(*shape)
    history, vectors = closed_form_towers(users, items, *shape, rank=shape[1], exact_size=exact_size)
    expected = regression_written_out(users, items, shape)
    assert abs(expected).max() > 0.01
    np.testing.assert_allclose(history @ vectors.T, expected, atol=1e-6)


def test_a_matrix_of_users_is_inverted_if_they_are_fewer_than_items(monkeypatch) -> None:
    sizes = []
    invert = gram_inverse.inverse_of_gram
    monkeypatch.setattr(
        gram_inverse, "inverse_of_gram", lambda *given: sizes.append(len(given[0])) or invert(*given)
    )
    for shape in ((60, 12), (12, 60)):
        closed_form_towers(*random_interactions(*shape), *shape, rank=2, exact_size=12)
    assert sizes == [12, 12]
    closed_form_towers(*random_interactions(60, 13), 60, 13, rank=2, exact_size=12)
    assert sizes == [12, 12]


def test_the_inverse_is_assembled_from_blocks(monkeypatch) -> None:
    whole = [
        closed_form_towers(*random_interactions(*shape), *shape, rank=3) for shape in ((60, 12), (12, 60))
    ]
    monkeypatch.setattr(gram_inverse, "BLOCK", 5)
    parts = [
        closed_form_towers(*random_interactions(*shape), *shape, rank=3) for shape in ((60, 12), (12, 60))
    ]
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one[0] @ one[1].T, two[0] @ two[1].T, atol=1e-6)


def test_what_the_eigenvectors_leave_out_is_still_on_the_diagonal() -> None:
    matrix = sparse.random(40, 12, density=0.4, format="csr", dtype=np.float32, rng=1)
    ridge = np.linspace(1, 3, 12)
    product, diagonal = inverse_by_factors(ridge, gram_factors(matrix, ridge, 4))
    inverse = product(np.eye(12, dtype=np.float32))
    np.testing.assert_allclose(np.diag(inverse), diagonal, rtol=1e-5)
    np.testing.assert_allclose(
        np.diag(np.linalg.inv(inverse)), np.diag((matrix.T @ matrix).toarray()) + ridge, rtol=1e-4
    )


def test_fewer_eigenvectors_than_items_are_near_the_regression(monkeypatch) -> None:
    users, items = communities()
    exact = closed_form_towers(users, items, 300, 120, rank=6)
    monkeypatch.setattr(low_rank, "EIGENVECTORS", 6)
    near = closed_form_towers(users, items, 300, 120, rank=6, exact_size=0)
    exact, near = exact[0] @ exact[1].T, near[0] @ near[1].T
    assert np.linalg.norm(near - exact) < 0.06 * np.linalg.norm(exact)


def test_penalties_that_share_their_work_have_the_regression_of_each_alone(monkeypatch) -> None:
    users, items = communities()
    regression, makers = Regression.of(users, items, (300, 120)), []
    for name in ("gram_matrix", "gram_factors"):
        make = getattr(low_rank, name)
        monkeypatch.setattr(
            low_rank, name, lambda *given, make=make, name=name: makers.append(name) or make(*given)
        )
    scores = {}
    for penalty in (30.0, 1000.0, 100.0, 30.0):
        history, vectors = regression.towers(6, penalty, coarse=True)
        scores.setdefault(penalty, history @ vectors.T)
    np.testing.assert_array_equal(scores[30.0], history @ vectors.T)  # whatever came between
    assert len(makers) == 1
    for penalty, found in scores.items():
        history, vectors = closed_form_towers(users, items, 300, 120, rank=6, penalty=penalty)
        alone = history @ vectors.T
        assert np.linalg.norm(found - alone) < 0.01 * np.linalg.norm(alone)


@pytest.mark.parametrize("exact_size", [12_000, 0], ids=["exact", "by eigenvectors"])
def test_the_withheld_diagonal_of_a_checkerboard_comes_first(exact_size: int) -> None:
    train, withheld = worlds.checkerboard(users=32, items=8)
    users, items = (np.array(ids) for ids in zip(*train, strict=True))
    users, items = users - worlds.FIRST_USER, items - worlds.FIRST_ITEM
    history, vectors = closed_form_towers(users, items, 32, 8, rank=2, penalty=1.0, exact_size=exact_size)
    x = np.zeros((32, 8))
    x[users, items] = 1
    scores = np.where(x > 0, -np.inf, x @ history @ vectors.T)
    expected = [item - worlds.FIRST_ITEM for _, item in withheld]
    assert scores.argmax(1).tolist() == expected


def test_columns_beyond_the_catalogue_are_zero() -> None:
    users, items = random_interactions()
    history, vectors = closed_form_towers(users, items, 60, 12, rank=16)
    assert history.shape == vectors.shape == (12, 16)
    assert not history[:, 12:].any()
    assert not vectors[:, 12:].any()


def test_towers_are_computed_once_and_read_afterwards(tmp_path: Path, monkeypatch) -> None:
    dataset = worlds.dataset(tmp_path, *worlds.checkerboard())
    first = cached_towers(dataset, 4)
    monkeypatch.setattr(low_rank, "closed_form_towers", lambda *_: pytest.fail("computed again"))
    again = cached_towers(dataset, 4)
    for one, two, path in zip(first, again, closed_form_files(dataset, 4, FIXED_PENALTY), strict=True):
        assert one.any()
        assert np.array_equal(one, two)
        assert np.array_equal(one, np.load(path))
        assert not two.flags.writeable


def test_a_truncated_file_of_towers_is_computed_again(tmp_path: Path) -> None:
    dataset = worlds.dataset(tmp_path, *worlds.checkerboard())
    paths = closed_form_files(dataset, 4, FIXED_PENALTY)
    whole = [path.read_bytes() for path in paths]
    paths[1].write_bytes(whole[1][:-10])
    assert closed_form_files(dataset, 4, FIXED_PENALTY) == paths
    assert [path.read_bytes() for path in paths] == whole


def test_where_nothing_can_be_written_towers_are_still_computed(tmp_path: Path, monkeypatch) -> None:
    dataset = worlds.dataset(tmp_path, *worlds.checkerboard())
    expected = [table.copy() for table in cached_towers(dataset, 4)]
    for path in closed_form_files(dataset, 4, FIXED_PENALTY):
        path.unlink()

    def fail(*_, **__) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "save", fail)
    for one, two in zip(cached_towers(dataset, 4), expected, strict=True):
        assert np.array_equal(one, two)
    assert not list(dataset.folder.glob("*low_rank*"))


def test_where_the_data_cannot_be_written_to_the_files_of_towers_are_temporary(
    tmp_path: Path, monkeypatch
) -> None:
    dataset = worlds.dataset(tmp_path, *worlds.checkerboard())
    monkeypatch.setattr(low_rank, "keep_array", lambda path, array: None)  # as on a read-only mount
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    expected = cached_towers(dataset, 4)
    paths = closed_form_files(dataset, 4, FIXED_PENALTY)
    for path, table in zip(paths, expected, strict=True):
        assert path.is_relative_to(tmp_path / "temporary")
        assert np.array_equal(np.load(path), table)
    assert not list(dataset.folder.glob("*low_rank*"))
