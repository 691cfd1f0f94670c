"""Exports by type of vectors and kind of index, beside exact search and `implicit`: size, recall, speed.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.export RUN     # a trained run
    OMP_NUM_THREADS=1 python -m tests.benchmarks.export --large # a made-up catalogue of 200,000 items

`p50` and `p99` are milliseconds of `Recommender.recommend(user, k=10)`, one user at a time, `a second` users
of one call of `recommend_many`; of `implicit` those of its `recommend` with the same vectors, which leaves
liked items out too. With `--large` they are those of the ranking alone (`Search`), without tables of titles.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from trainer.errors import UserError
from trainer.exporting.choice import Chooser
from trainer.exporting.export import Wishes, export
from trainer.exporting.gate import Sample
from trainer.exporting.index_kinds import INDEXES, built
from trainer.recommender.index import Index
from trainer.recommender.manifest import INDEX
from trainer.recommender.recommender import Recommender
from trainer.recommender.search import Search
from trainer.recommender.vectors import DTYPES, VectorTable, dimension_scale, quantise

K, ALONE, TOGETHER = 10, 500, 2_000
ITEMS, DIM, USERS, SEEN, DECAY = 200_000, 64, 500, 50, 0.7
HEADS = (
    "type",
    "index",
    "vectors MB",
    "index MB",
    "recall@10",
    "@100",
    "NDCG@10",
    "p50",
    "p99",
    "a second",
    "build s",
)


def line(cells: Iterable[Any]) -> None:
    """Print a row of a Markdown table."""
    print(
        f"| {' | '.join(f'{cell:.4g}' if isinstance(cell, float) else str(cell) for cell in cells)} |",
        flush=True,
    )


def alone(ask: Callable[[int], Any], count: int) -> tuple[float, float]:
    """p50 and p99 in milliseconds of one request after another, the first ones not counted."""
    taken = []
    for number in range(count + 20):
        begun = time.perf_counter()
        ask(number)
        taken.append(1000 * (time.perf_counter() - begun))
    return tuple(float(np.percentile(taken[20:], share)) for share in (50, 99))  # type: ignore[return-value]


def rate(ask: Callable[[], Any], count: int) -> int:
    """Users a second of one call, the better of two."""
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - begun)
    return round(count / min(seconds))


def of_run(run: Path) -> None:
    """The table of a trained run."""
    with tempfile.TemporaryDirectory() as folder:
        line(HEADS)
        line("---" for _ in HEADS)
        for kind in INDEXES:
            for dtype in DTYPES:
                place = Path(folder) / f"{dtype}-{kind}"
                try:
                    export(run, place, Wishes(dtype, kind))
                except UserError as error:
                    print(f"{dtype} {kind}: {error}")
                    continue
                of_export(place, dtype, kind)
        opened = Recommender.open(Path(folder) / "float32-none")
        begun = time.perf_counter()
        Recommender.open(Path(folder) / "float32-none")
        print(f"opened in {time.perf_counter() - begun:.3f} s (every file hashed)")
        of_implicit(opened)


def of_export(place: Path, dtype: str, kind: str) -> None:
    """One line of that table."""
    opened = Recommender.open(place)
    users, checks = opened._export.user_ids.to_pylist(), opened.manifest["checks"]
    asked = np.random.default_rng(0).permutation(len(users)).tolist()
    many = [users[row] for row in asked[:TOGETHER]]
    times = alone(lambda number: opened.recommend(users[asked[number % len(users)]], k=K), ALONE)
    a_second = rate(lambda: opened.recommend_many(many, k=K), len(many))
    seconds = 0.0
    if kind != "none":
        begun = time.perf_counter()
        for factory, _ in built(kind, opened._export.items, dtype):
            if factory == opened.manifest["index"]["factory"]:
                break
        seconds = time.perf_counter() - begun
    sizes = opened.manifest["files"]
    index = sizes[INDEX]["bytes"] / 1e6 if INDEX in sizes else 0.0
    figures = checks["recall@10"], checks["recall@100"], checks["ndcg@10"]
    line([dtype, kind, sizes["item_vectors.npy"]["bytes"] / 1e6, index, *figures, *times, a_second, seconds])


def of_implicit(opened: Recommender) -> None:
    """The line of `implicit` with the same vectors."""
    from implicit.cpu.als import AlternatingLeastSquares

    export = opened._export
    model = AlternatingLeastSquares(factors=export.items.dim, num_threads=1)
    model.user_factors, model.item_factors = np.array(export.users.stored), np.array(export.items.stored)
    past = export.past
    ones = np.ones(len(past.values), np.float32)
    liked = sparse.csr_matrix((ones, past.values, past.offsets), (len(export.users), len(export.items)))
    rows = np.random.default_rng(0).permutation(len(export.users))
    times = alone(
        lambda number: model.recommend(rows[number % len(rows)], liked[rows[number % len(rows)]], N=K), ALONE
    )
    many = rows[:TOGETHER]
    a_second = rate(lambda: model.recommend(many, liked[many], N=K), len(many))
    line(["float32", "implicit", export.items.stored.nbytes / 1e6, 0.0, 1, 1, "", *times, a_second, 0.0])


def made_up() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of few strong and many weak dimensions, as trained ones are, with a bias; and queries."""
    generator = np.random.default_rng(0)
    turned = np.linalg.qr(generator.normal(size=(DIM - 1, DIM - 1)))[0]
    strengths = np.arange(1, DIM, dtype=np.float32) ** -DECAY

    def drawn(count: int) -> np.ndarray:
        own = (generator.normal(size=(count, DIM - 1)) * strengths @ turned).astype(np.float32)
        return own / np.linalg.norm(own, axis=1, keepdims=True)

    biases = generator.normal(0, 0.5, (ITEMS, 1)).astype(np.float32)
    return np.hstack([5 * drawn(ITEMS), biases]), np.hstack([drawn(USERS), np.ones((USERS, 1), np.float32)])


def speed(search: Search, queries: np.ndarray, seen: list[np.ndarray]) -> tuple[tuple[float, float], int]:
    """p50 and p99 in milliseconds, and users a second."""
    times = alone(lambda number: search.one(queries[number % USERS], K, seen[number % USERS]), 300)
    return times, rate(lambda: search.many(queries, K, seen, [0] * USERS), USERS)


def of_large() -> None:
    """The table of a large catalogue."""
    items, queries = made_up()
    ids, hashes = pa.array(range(ITEMS)), [0] * USERS
    generator = np.random.default_rng(1)
    seen = [np.sort(generator.choice(ITEMS, SEEN, replace=False)) for _ in range(USERS)]
    exact = Search(VectorTable(items), ids, None, DIM - 1, "made-up").many(queries, 100, seen, hashes)
    sample = Sample(queries, np.abs(queries).max(0), seen, None, hashes, exact)

    def stored(dtype: str) -> VectorTable:
        scale = dimension_scale(np.abs(items).max(0)) if DTYPES[dtype].scaled else None
        return VectorTable(quantise(items, dtype, scale), scale)

    chooser = Chooser(sample, stored, ids, DIM - 1, "made-up")
    line(HEADS)
    line("---" for _ in HEADS)
    for kind in INDEXES:
        for dtype in ("float32", "int8"):
            begun = time.perf_counter()
            try:
                choice = chooser.choose(dtype, kind, 0.98)
            except UserError as error:
                print(f"{dtype} {kind}: {error}")
                continue
            seconds = time.perf_counter() - begun
            table = stored(dtype)
            facts = choice.facts()
            search = Search(table, ids, Index(choice.index, facts) if facts else None, DIM - 1, "made-up")
            size = 0.0
            if choice.index is not None:
                import faiss

                size = len(faiss.serialize_index(choice.index)) / 1e6
            table.scores(queries[0])  # converts what is converted once
            times, a_second = speed(search, queries, seen)
            recall = choice.checks.recall
            line(
                [
                    dtype,
                    kind,
                    table.stored.nbytes / 1e6,
                    size,
                    recall[10],
                    recall[100],
                    "",
                    *times,
                    a_second,
                    seconds,
                ]
            )
            if facts:
                print(f"  {facts}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="run folder")
    parser.add_argument("--large", action="store_true", help="the made-up catalogue")
    options = parser.parse_args()
    of_large() if options.large or options.run is None else of_run(options.run)
