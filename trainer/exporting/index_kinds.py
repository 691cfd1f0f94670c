"""Kinds of index that FAISS builds, with what each may try to reach a recall.

A new kind is an entry of `INDEXES`. Finer quantisations are tried only when no search of a coarser one
reaches the recall; of one index, the cheapest search that reaches it is taken.

Source: Johnson et al., Billion-scale similarity search with GPUs (FAISS), 2017; Malkov and Yashunin, TPAMI
    2018 (HNSW); Jégou et al., TPAMI 2011 (product quantisation); Bachrach et al., RecSys 2014 (equal
    lengths).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.recommender.index import MISSING
from trainer.recommender.vectors import VectorTable

STORED = {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8"}
"""What FAISS calls an index that stores vectors in each type."""
LINKS, BREADTH = (32, 64), 200
"""Links of a node of an HNSW graph, few first, and candidates that are looked at for each."""
TRAINED = 2**18
"""Most vectors that centroids are trained on."""
LEAST_PQ = 1_000
"""Least items of a product quantisation: each of its parts has 256 centroids."""
SUBVECTORS = (4, 2, 1)
"""Dimensions that a byte stands for, coarsest first."""
SEED = 42


@dataclass(frozen=True)
class SearchStep:
    """How to search: FAISS's parameters by name, and how many candidates in multiples of those wanted."""

    search: dict[str, int]
    refine: int = 1

    def facts(self) -> dict[str, Any]:
        """Return what a manifest holds of it."""
        return {"search": self.search, "refine": self.refine}


@dataclass(frozen=True)
class IndexSpec:
    """Facts about one kind of index.

    Attributes:
        text: What it is, for the model card.
        factories: FAISS's descriptions of indexes, from coarse to fine, given items, dimensions and the type
            of the vectors.
        steps: Searches, from fast to thorough, given the number of items.
        least: Least items that it can be built of.
        equal_lengths: Whether vectors get a dimension that makes them equally long. A graph of inner products
            is not connected where lengths differ: only long vectors are anyone's neighbours.
    """

    text: str
    factories: Callable[[int, int, str], list[str]]
    steps: Callable[[int], list[SearchStep]]
    least: int = 1
    equal_lengths: bool = False


def _cells(items: int) -> int:
    """Return the number of cells of an inverted file: 4 √items, as long as each has 39 to be trained on."""
    return max(1, min(int(4 * math.sqrt(items)), items // 39))


def _product_quantisations(items: int, dim: int, dtype: str) -> list[str]:
    found = []
    for size in SUBVECTORS:  # "np": not polysemous, which takes 50 times as long to train
        padded = -(-dim // size) * size
        pad = f"Pad{padded}," if padded != dim else ""
        found.append(f"{pad}IVF{_cells(items)},PQ{padded // size}np")
    return found


def _probes(items: int) -> list[SearchStep]:
    cells = _cells(items)
    shares = [min(cells, max(1, round(cells * share))) for share in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)]
    return [SearchStep({"nprobe": count}, refine) for count in dict.fromkeys(shares) for refine in (2, 4, 8)]


INDEXES: dict[str, IndexSpec] = {
    "none": IndexSpec("no index: all items are scored", lambda *_: [], lambda _: []),
    "flat": IndexSpec(
        "FAISS, all items scored",
        lambda items, dim, dtype: [STORED[dtype]],
        lambda _: [SearchStep({}), SearchStep({}, 2), SearchStep({}, 4)],
    ),
    "hnsw": IndexSpec(
        "FAISS, a graph of neighbours (HNSW)",
        lambda items, dim, dtype: [f"HNSW{links},{STORED[dtype]}" for links in LINKS],
        lambda _: [SearchStep({"efSearch": 2**power}) for power in range(5, 12)],
        equal_lengths=True,
    ),
    "ivf_pq": IndexSpec(
        "FAISS, cells of an inverted file with product quantisation (IVF-PQ)",
        _product_quantisations,
        _probes,
        LEAST_PQ,
    ),
}


def check_index(kind: str, items: int) -> None:
    """Refuse an index that cannot be built.

    Raises:
        UserError: FAISS is not installed, or there are too few items.
    """
    if kind == "none":
        return
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise UserError(f"--index {kind}: {MISSING}") from None
    if items < INDEXES[kind].least:
        raise UserError(
            f"--index {kind}: needs {INDEXES[kind].least:,} items to be trained on, and there are {items:,}. "
            "Use --index none, which is faster for so few"
        )


def built(kind: str, vectors: VectorTable, dtype: str) -> Iterator[tuple[str, Any]]:
    """Yield the indexes of one kind from coarse to fine, each built when it is asked for, with descriptions.

    Args:
        kind: One of `INDEXES`.
        vectors: Candidate vectors, whose rows are the ids.
        dtype: Type in which they are stored.
    """
    for factory in INDEXES[kind].factories(len(vectors), vectors.dim, dtype):
        yield factory, _built(factory, vectors, INDEXES[kind].equal_lengths)


def _built(factory: str, vectors: VectorTable, equal_lengths: bool) -> Any:
    import faiss

    items, extra = len(vectors), vectors.dim + equal_lengths
    index = faiss.index_factory(extra, factory, faiss.METRIC_INNER_PRODUCT)
    if "HNSW" in factory:
        faiss.ParameterSpace().set_index_parameter(index, "efConstruction", BREADTH)
    longest = max(float(np.square(block).sum(1).max()) for _, block in vectors.blocks())

    def given(block: np.ndarray) -> np.ndarray:
        if not equal_lengths:
            return np.ascontiguousarray(block)
        return np.hstack([block, np.sqrt(np.maximum(longest - np.square(block).sum(1, keepdims=True), 0))])

    if not index.is_trained:
        _silence(index)
        chosen = np.arange(items)
        if items > TRAINED:
            chosen = np.sort(np.random.default_rng(SEED).choice(items, TRAINED, replace=False))
        index.train(given(vectors.rows(chosen)))
    for rows, block in vectors.blocks():
        if "IVF" in factory:
            index.add_with_ids(given(block), np.arange(rows.start, rows.stop))
        else:  # numbers what is added from 0 up, which are the rows
            index.add(given(block))
    # Queries get a zero for the dimension more, so that inner products stay what they are.
    return (
        faiss.IndexPreTransform(faiss.RemapDimensionsTransform(vectors.dim, extra), index)
        if equal_lengths
        else index
    )


def _silence(index: Any) -> None:
    """Keep FAISS from printing that few vectors are few."""
    import faiss

    found = faiss.try_extract_index_ivf(index)
    if found is not None:
        cells: Any = faiss.downcast_index(found)
        cells.cp.min_points_per_centroid = 1
        if hasattr(cells, "pq"):
            cells.pq.cp.min_points_per_centroid = 1
