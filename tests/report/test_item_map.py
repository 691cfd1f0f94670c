"""The map of items: groups apart, neighbours near, and the rarest category as colour."""

import numpy as np
import pyarrow as pa

from trainer.report.item_map import colouring, colours, layout, neighbours_kept, principal_components


def two_groups() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, (60, 8))
    noise[:30, 0] += 1
    noise[30:, 1] += 1
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


def test_items_that_are_alike_are_near_each_other() -> None:
    places = layout(two_groups())
    assert places.min(0).tolist() == [0, 0]
    assert places.max(0).tolist() == [100, 100]
    centres = places[:30].mean(0), places[30:].mean(0)
    spread = max(places[:30].std(), places[30:].std())
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
    assert neighbours_kept(two_groups(), places) > 0.5  # 10 of 59 at random: 0.17


def test_nothing_is_drawn_at_random() -> None:
    assert np.array_equal(layout(two_groups()), layout(two_groups()))


def test_all_neighbours_are_kept_where_the_map_is_the_space() -> None:
    angles = np.linspace(0, 1, 30)
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert neighbours_kept(places, places * 50) == 1


def test_principal_components_are_those_of_a_singular_value_decomposition() -> None:
    values = np.random.default_rng(1).normal(size=(50, 5)) * [5, 3, 1, 1, 1]
    centred = values - values.mean(0)
    left = np.linalg.svd(centred, full_matrices=False)[0][:, :2]
    found = principal_components(values)
    assert np.allclose(np.abs((found / np.linalg.norm(found, axis=0)).T @ left), np.eye(2), atol=1e-9)
    assert np.allclose(principal_components(np.ones((4, 1))), 0)


def test_an_item_shows_its_rarest_category() -> None:
    column = pa.chunked_array([pa.array([["drama"], ["drama", "noir"], ["drama"], [], None])])
    values, names = colours(column)
    assert values == ["drama", "noir", "drama", "unknown", "unknown"]
    assert names == ["drama", "noir", "unknown"]


def test_categories_without_a_colour_are_the_others() -> None:
    values, names = colours(pa.chunked_array([pa.array([*"aabbccddeeffgghi"])]))
    assert names == [*"abcdefg", "other"]
    assert values[-2:] == ["other", "other"]


def test_an_attribute_with_a_few_values_is_preferred_to_a_number() -> None:
    years = pa.array([float(year) for year in range(1950, 2000)], pa.float32())
    kinds = pa.array(["new", "old"] * 25)
    table = pa.table({"year": years, "kind": kinds, "same": ["x"] * 50})
    assert colouring(table, None) == "kind"
    assert colouring(table, "year") == "year"
    assert colouring(pa.table({"year": years}), None) == "year"
    assert colouring(pa.table({}), None) is None
    values, names = colours(pa.chunked_array([years]))
    assert (values[0], names) == (1950.0, [])
