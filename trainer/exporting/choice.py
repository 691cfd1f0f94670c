"""Choice of an index and its search for the recall asked for, and what would pass where it fails."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trainer.errors import UserError
from trainer.exporting.gate import TRIED, Checks, Sample, measure
from trainer.exporting.index_kinds import INDEXES, SearchStep, built, check_index
from trainer.recommender.index import Index
from trainer.recommender.search import Search
from trainer.recommender.vectors import DTYPES, VectorTable


@dataclass(frozen=True)
class Choice:
    """One way to store and search vectors, with its checks.

    Attributes:
        dtype: Type of the vectors.
        kind: Kind of index.
        checks: How near it comes to the exact ranking.
        factory: FAISS's description of the index; None without one.
        step: How it is searched.
        index: The index of FAISS.
    """

    dtype: str
    kind: str
    checks: Checks
    factory: str | None = None
    step: SearchStep | None = None
    index: Any = None

    def options(self) -> str:
        """Return the options that ask for it."""
        return f"--dtype {self.dtype} --index {self.kind}"

    def facts(self) -> dict[str, Any] | None:
        """Return what a manifest holds of the index; None without one."""
        if self.step is None:
            return None
        return {"kind": self.kind, "factory": self.factory, **self.step.facts()}


@dataclass(frozen=True)
class Chooser:
    """What choices are measured with.

    Attributes:
        sample: Users.
        vectors: Gives the candidate vectors in a stored type.
        item_ids: Raw ids of the items.
        learned: Width of the learned part of the vectors, without a bias.
        place: What messages name.
    """

    sample: Sample
    vectors: Callable[[str], VectorTable]
    item_ids: pa.Array
    learned: int
    place: str

    def choose(self, dtype: str, kind: str, bound: float) -> Choice:
        """Return the first choice of a type and a kind of index that passes a bound.

        Raises:
            UserError: None does; the message says by how much, and what passes.
        """
        check_index(kind, len(self.item_ids))
        found = self._nearest(dtype, kind, bound)
        if found.checks.passes(bound):
            return found
        raise UserError(_refusal(found, bound, self._passing(dtype, kind, bound)))

    def _nearest(self, dtype: str, kind: str, bound: float) -> Choice:
        """Return the first choice that passes, or the one that comes nearest."""
        vectors = self.vectors(dtype)
        if kind == "none":
            return Choice(dtype, kind, measure(self.sample, self._search(vectors, None), dtype))
        found: list[Choice] = []
        for factory, index in built(kind, vectors, dtype):
            for step in self._worth_trying(kind, vectors, index, dtype, bound):
                search = self._search(vectors, Index(index, step.facts()))
                tried = measure(self.sample.first(TRIED), search, dtype)
                if tried.passes(bound) and len(self.sample.queries) > TRIED:
                    tried = measure(self.sample, search, dtype)
                found.append(Choice(dtype, kind, tried, factory, step, index))
                if tried.passes(bound):
                    return found[-1]
        return max(found, key=lambda choice: min(choice.checks.recall.values()))

    def _worth_trying(
        self, kind: str, vectors: VectorTable, index: Any, dtype: str, bound: float
    ) -> list[SearchStep]:
        """Return the searches of an index from fast to thorough; the most thorough alone where it fails."""
        steps = INDEXES[kind].steps(len(vectors))
        search = self._search(vectors, Index(index, steps[-1].facts()))
        best = measure(self.sample.first(TRIED), search, dtype)
        return steps if best.passes(bound) else steps[-1:]

    def _passing(self, dtype: str, kind: str, bound: float) -> Iterator[Choice]:
        """Yield other choices that pass, the ones most like what was asked for first."""
        names = list(DTYPES)
        finer = names[: names.index(dtype)][::-1]
        kinds = dict.fromkeys((kind, "hnsw", "flat", "none"))
        others = [(other, kind) for other in finer] + [
            (each, other) for other in kinds for each in (dtype, *finer)
        ]
        for each, other in dict.fromkeys(others):
            if (each, other) != (dtype, kind):
                choice = self._nearest(each, other, bound)
                if choice.checks.passes(bound):
                    yield choice

    def _search(self, vectors: VectorTable, index: Index | None) -> Search:
        return Search(vectors, self.item_ids, index, self.learned, self.place)


def _refusal(found: Choice, bound: float, passing: Iterator[Choice]) -> str:
    checks = found.checks
    worst = min(checks.recall, key=lambda k: checks.recall[k])
    below = bound - checks.recall[worst]
    text = f"--min-recall {bound:g}: {found.options()} has {checks.text()}"
    if below > 0:
        text += f", of which recall@{worst} is {below:.4f} below the bound"
    else:
        text += f", and NDCG@10 {checks.ndcg:.4f} for {checks.ndcg_exact:.4f}"
    text += f" ({checks.users:,} users)"
    other = next(passing, None)
    if other is None:
        return f"{text}. Nothing passes; lower the bound"
    return f"{text}. What passes: {other.options()} ({other.checks.text()}); or lower the bound"
