"""A map of item vectors: near each other are items that the model takes for alike."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.dataset.vocabulary import Vocabulary
from trainer.errors import UserError
from trainer.page.charts import OTHER, UNKNOWN
from trainer.report.facts import RunFacts
from trainer.runs.checkpoint_store import finished_step, newest
from trainer.serving.vector_cache import Vectors, open_vectors

MOST_ITEMS = 1_500
"""Most items on the map, the most popular ones: the layout takes time and memory by the square of them."""
NEIGHBOURS = 15
"""Neighbours that attract an item; `KEPT` of them are counted that stay near it."""
KEPT = 10
STEPS, EARLY, EXAGGERATION = 300, 75, 12.0
MOST_NAMED, MOST_CATEGORIES = 7, 40
"""Categories with a colour of their own; most that an attribute may have to colour the map unasked."""


@dataclass(frozen=True)
class ItemMap:
    """A map of items.

    Attributes:
        rows: (n,) rows of its items, the most popular first.
        places: (n, 2) float64, from 0 to 100.
        kept: Mean share of an item's 10 nearest by vector that are among its 10 nearest on the map.
        attribute: Name of the attribute that colours it; None where items have none.
        values: What colours each item: categories, or numbers, None where unknown.
        names: Categories in the order of their colours; empty for numbers.
    """

    rows: np.ndarray
    places: np.ndarray
    kept: float
    attribute: str | None
    values: list[str] | list[float | None]
    names: list[str]


def map_items(run: RunFacts, attribute: str | None = None) -> ItemMap | None:
    """Lay out the most popular items of a run by their vectors, without popularity.

    Args:
        run: A run whose vectors are cached, see `trainer.serving.vector_cache`.
        attribute: Attribute that colours the map; None: the first that suits it.

    Returns:
        The map; None where no vectors are cached, or there are fewer than four items.

    Raises:
        UserError: Items have no such attribute.
    """
    vocabulary = run.vocabulary
    vectors = open_vectors(run.folder, newest(run.folder, finished_step(run.folder)))
    if vectors is None or len(vectors.items) < 4:
        return None
    rows = popular(vocabulary)[:MOST_ITEMS]
    directions = item_directions(vectors, run.config.model.item_bias)[rows]
    name = colouring(vocabulary.item_attributes, attribute)
    values, names = colours(vocabulary.item_attributes[name].take(rows)) if name else ([], [])
    places = layout(directions)
    return ItemMap(rows, places, neighbours_kept(directions, places), name, values, names)


def popular(vocabulary: Vocabulary) -> np.ndarray:
    """Return all item rows, those that most users have first; equal ones by row."""
    counts = np.bincount(vocabulary.seen.values, minlength=len(vocabulary.item_ids))
    return np.argsort(-counts, kind="stable")


def item_directions(vectors: Vectors, bias: bool) -> np.ndarray:
    """Return unit vectors of the learned dims of all items without their bias, (items, D) float32.

    Dot products are then cosine similarities, which do not grow with the popularity of an item.
    """
    width = vectors.items.shape[1] - vectors.histories.shape[1] - bias
    learned = vectors.items[:, :width]
    return learned / np.maximum(np.linalg.norm(learned, axis=1, keepdims=True), 1e-12)


def layout(directions: np.ndarray) -> np.ndarray:
    """Lay out items in the plane by t-SNE, from their principal components on; nothing is drawn at random.

    An item is attracted by its `NEIGHBOURS` nearest, each with the same probability, and pushed away by all.
    Momentum, gains and early exaggeration are those of the paper, the rate n / 12 that of Belkina et al.

    Args:
        directions: (n, D) unit vectors.

    Returns:
        (n, 2) float64, each axis from 0 to 100.

    Source: van der Maaten and Hinton, JMLR 2008; start from principal components: Kobak and Berens, Nature
        Communications 2019; rate: Belkina et al., ibid.
    """
    count, wide = len(directions), directions.astype(np.float64)
    attraction = np.zeros((count, count))
    near = _nearest(wide @ wide.T, min(NEIGHBOURS, count - 1))
    np.put_along_axis(attraction, near, 1 / near.shape[1], axis=1)
    attraction = (attraction + attraction.T) / (2 * count)
    first, second = np.nonzero(attraction)
    weights = attraction[first, second]
    places = principal_components(wide) * 1e-4
    speed, gains = np.zeros_like(places), np.ones_like(places)
    for step in range(STEPS):
        exaggeration, momentum = (EXAGGERATION, 0.5) if step < EARLY else (1.0, 0.8)
        kernel = _student_kernel(places)
        pull = (exaggeration * weights * kernel[first, second])[:, None] * (places[first] - places[second])
        pulled = np.stack([np.bincount(first, pull[:, axis], count) for axis in (0, 1)], axis=1)
        total = kernel.sum(dtype=np.float64)
        kernel *= kernel
        pushed = kernel.sum(1)[:, None] * places - kernel @ places.astype(np.float32)
        gradient = 4 * (pulled - pushed / total)
        gains = np.where(np.sign(gradient) == np.sign(speed), gains * 0.8, gains + 0.2).clip(0.01)
        speed = momentum * speed - max(count / 12, 10) * gains * gradient
        places = places + speed
    low, high = places.min(0), places.max(0)
    return 100 * (places - low) / np.maximum(high - low, 1e-12)


def _student_kernel(places: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + squared distance) of all pairs, (n, n) float32, and 0 of an item and itself."""
    near = places.astype(np.float32)
    squares = (near**2).sum(1)
    kernel = near @ (-2 * near.T)
    kernel += squares[:, None]
    kernel += 1 + squares
    np.reciprocal(kernel, out=kernel)
    np.fill_diagonal(kernel, 0)
    return kernel


def principal_components(values: np.ndarray) -> np.ndarray:
    """Return the first two principal components of rows, of deviation 1, their largest value positive."""
    centred = values - values.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    found = centred @ vectors[:, -2:][:, ::-1]
    found = np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
    signs = np.sign(found[np.abs(found).argmax(0), [0, 1]])
    return found * np.where(signs == 0, 1, signs) / np.maximum(found.std(0), 1e-12)


def neighbours_kept(directions: np.ndarray, places: np.ndarray) -> float:
    """Return the mean share of each item's nearest by vector that are among its nearest on the map."""
    count = min(KEPT, len(places) - 1)
    squares = (places**2).sum(1)
    by_vector = _nearest(directions @ directions.T, count)
    by_place = _nearest(2 * places @ places.T - squares[:, None] - squares, count)
    return float((by_vector[:, :, None] == by_place[:, None]).any(2).mean())


def _nearest(similarities: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` most similar others of each row, (n, count); the matrix is changed."""
    np.fill_diagonal(similarities, -np.inf)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :count]


def colouring(attributes: pa.Table, wanted: str | None) -> str | None:
    """Return the attribute that colours the map: the one wanted, or else the first that suits it.

    Raises:
        UserError: Items have no attribute of that name.
    """
    if wanted is not None:
        if wanted not in attributes.column_names:
            listed = ", ".join(attributes.column_names) or "none"
            raise UserError(f"--colour {wanted}: no attribute of the items. Those that there are: {listed}")
        return wanted
    suitable = [
        name for name in attributes.column_names if 2 <= _different(attributes[name]) <= MOST_CATEGORIES
    ]
    numbers = [name for name in attributes.column_names if _is_number(attributes[name].type)]
    return next(iter([*suitable, *numbers]), None)


def colours(column: pa.ChunkedArray) -> tuple[list[str] | list[float | None], list[str]]:
    """Return what colours each item, and the categories in the order of their colours.

    Of several categories an item shows the rarest of those that have a colour.

    Args:
        column: Values of an attribute.
    """
    values = column.to_pylist()
    if _is_number(column.type) and _different(column) > MOST_CATEGORIES:
        return [None if value is None else float(value) for value in values], []
    lists = [
        [] if each is None else [str(one) for one in (each if isinstance(each, list) else [each])]
        for each in values
    ]
    counts: dict[str, int] = {}
    for each in lists:
        for one in dict.fromkeys(each):
            counts[one] = counts.get(one, 0) + 1
    named = sorted(counts, key=lambda one: (-counts[one], one))[:MOST_NAMED]
    shown = []
    for each in lists:
        own = [one for one in each if one in named]
        shown.append(max(own, key=named.index) if own else OTHER if each else UNKNOWN)
    return shown, [*named, *(name for name in (OTHER, UNKNOWN) if name in shown)]


def _different(column: pa.ChunkedArray) -> int:
    lists = pa.types.is_large_list(column.type) or pa.types.is_list(column.type)
    return pc.count_distinct(pc.list_flatten(column) if lists else column).as_py()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
