"""A trained run in Python: its figures as frames, its recommendations, vectors and plan."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack

import pandas as pd

from trainer.api.options import options_of
from trainer.api.shown_plan import ShownPlan
from trainer.config.parser import read_config
from trainer.config.schema import Config
from trainer.dataset.vocabulary import open_vocabulary
from trainer.errors import CheckpointError, UserError
from trainer.exporting.export import Wishes, export
from trainer.facts.baselines import BASELINES
from trainer.formatting import with_names
from trainer.installation import quiet_libraries
from trainer.object_storage.copies import open_place
from trainer.planning.plan import open_plan
from trainer.recommender.recommender import Recommender
from trainer.report.report import write_report
from trainer.runs.checkpoint_store import CONFIG, METRICS, check_is_run
from trainer.runs.run_folder import PLAN, RECORDS
from trainer.serving.embed import vectors_of
from trainer.serving.recommend import recommend, recommend_by_history
from trainer.serving.served_run import Restrictions
from trainer.serving.similar_items import similar_items
from trainer.training.run_evaluation import evaluate


def open_run(path: str | os.PathLike[str]) -> "Run":
    """Open a run folder.

    Raises:
        CheckpointError: It is none.
    """
    return Run(open_place(path))


class Run:
    """A run folder; what it holds is read when it is first asked for.

    In a notebook it shows its metrics as a table.
    """

    def __init__(self, path: Path) -> None:
        quiet_libraries()
        check_is_run(path)
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Run({with_names(str(self.path))!r})"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}, {self.config.data.name}</p>{self.ranking.round(4).to_html()}"

    @cached_property
    def config(self) -> Config:
        """The configuration; once trained, with every value that was chosen."""
        return read_config(self.path / CONFIG)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The report of the final evaluation, as `metrics.json` holds it.

        Raises:
            CheckpointError: The training has not ended.
        """
        try:
            return json.loads((self.path / METRICS).read_text())
        except FileNotFoundError:
            place = with_names(str(self.path))
            raise CheckpointError(
                f"{place}: its training has not ended, so that there are no metrics. Go on with: "
                f'trainer.train(changes={{"run.dir": "{place}"}})'
            ) from None

    @property
    def ranking(self) -> pd.DataFrame:
        """The metrics of the model and of the baselines beside it, a row each."""
        rankers = ("model", *BASELINES)
        rows = {name: row for name, row in self.metrics.items() if name in rankers}
        return pd.DataFrame.from_dict(rows, orient="index")

    @property
    def history(self) -> pd.DataFrame:
        """What was recorded while training, a row a step: loss, rates, validation metrics and the like."""
        path = self.path / RECORDS
        lines = path.read_text().splitlines() if path.exists() else []
        frame = pd.DataFrame([json.loads(line) for line in lines] or {"step": []})
        return frame.groupby("step").last()  # a validation is a record of its own

    @property
    def plan(self) -> ShownPlan:
        """The sharding plan that the training followed."""
        return ShownPlan(open_plan(self.path / PLAN), str(self.path))

    def recommend(
        self,
        user: str | int | None = None,
        history: Sequence[str | int] | None = None,
        k: int = 10,
        *,
        attributes: Mapping[str, object] | None = None,
        keep_seen: bool = False,
        why: int = 0,
        **restrictions: Unpack[Restrictions],
    ) -> pd.DataFrame:
        """Return the best items for a user of the data, or for someone new, best first.

        Args:
            user: Raw id.
            history: In place of it, raw ids or titles of what someone has, oldest first.
            k: Items wanted, from 1 up; fewer come back where fewer remain.
            attributes: Of someone new, where the query tower takes attributes: `{"gender": "F"}`.
            keep_seen: Whether to recommend what the person has too.
            why: For each item, name so many items of the past that speak most for it, in a column `why`.
            restrictions: `where`, `allow`, `deny` and `at_most`; see `Restrictions`.

        Returns:
            Columns `rank`, `item`, `title` and `score`; `attrs["notes"]` are sentences about what could not
            be done.

        Raises:
            UserError: Neither a user nor a history or attributes are given, or they are unknown.
        """
        if user is not None:
            if history is not None or attributes:
                raise UserError("recommend: a user's history and attributes are known. Leave them out")
            found = recommend(self.path, str(user), k, keep_seen, why=why, **restrictions)
        elif history is None and not attributes:
            raise UserError("recommend: give a user, a history or attributes")
        else:
            given = [str(item) for item in history or ()]
            found = recommend_by_history(
                self.path, given, k, keep_seen, attributes=attributes, why=why, **restrictions
            )
        return _ranked(found)

    def similar(self, item: str | int, k: int = 10, **restrictions: Unpack[Restrictions]) -> pd.DataFrame:
        """Return the items most like one, without itself: columns `rank`, `item`, `title`, `score`.

        The score is the cosine of the learned candidate vectors without the popularity bias.

        Args:
            item: Raw id or title.
            k: Items wanted.
            restrictions: As those of `recommend`.
        """
        return _ranked(similar_items(self.path, str(item), k, **restrictions))

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        index: str = "none",
        min_recall: float = 0.98,
        replace: bool = False,
    ) -> Recommender:
        """Write an export, checked against the exact ranking, and open it.

        Args:
            folder: Place of the export, which may be an address of an object store.
            dtype: Type of the vectors: `float32`, `float16` or `int8`.
            index: `none`, `flat`, `hnsw` or `ivf_pq`.
            min_recall: Least recall@10 and recall@100, from 0 to 1; below it nothing is written.
            replace: Whether an earlier export in this place may be replaced.
        """
        export(self.path, os.fspath(folder), Wishes(dtype, index, min_recall, replace))
        return Recommender.open(os.fspath(folder))

    def report(
        self,
        *others: str | os.PathLike[str],
        out: str | os.PathLike[str] | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write one HTML page on the run, or one that compares it with others; return the file.

        Args:
            others: Runs to compare it with.
            out: File; by default `report.html` in the run folder, or for several one in the current folder.
            changes: Values by key where the data have moved, such as `{"data.root": folder}`.
        """
        runs = [self.path, *(open_place(other) for other in others)]
        return write_report(runs, None if out is None else Path(out), options=options_of(changes or {}))

    def vectors(self, side: Literal["user", "item"]) -> pd.DataFrame:
        """Return the vectors of all users or items; the dot product of two is a score.

        Returns:
            (rows, D) float32, indexed by raw id.
        """
        rows, ids = vectors_of(self.path, side), getattr(open_vocabulary(self.path), f"{side}_ids")
        return pd.DataFrame(rows, index=pd.Index(ids.to_pylist(), name=side))

    def evaluate(
        self,
        split: str | None = None,
        seen: str | None = None,
        ks: Sequence[int] | None = None,
        *,
        baselines: Sequence[str] | None = None,
        beyond: bool = False,
        compare: str | os.PathLike[str] | None = None,
        device: Literal["auto", "cpu", "cuda"] | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Evaluate the newest checkpoint; by default under the protocol of the training.

        Args:
            split: `test` or `validation`.
            seen: `mask` or `keep`.
            ks: Lengths of ranked lists.
            baselines: Baselines to evaluate next to the model.
            beyond: Whether to add metrics beyond accuracy.
            compare: Another run on the same data; its difference is told with a confidence interval.
            device: `cpu` or `cuda`.
            changes: Further values by key, such as `{"data.root": folder}` where the data have moved.

        Returns:
            Metrics by ranker, and the protocol, as `evaluate --json` prints them.
        """
        text = evaluate(
            self.path,
            split,
            seen,
            ks,
            device,
            baselines=baselines,
            beyond=beyond,
            compare=None if compare is None else open_place(compare),
            as_json=True,
            options=options_of(changes or {}),
        )
        return json.loads(text or "{}")


def _ranked(found: pd.DataFrame) -> pd.DataFrame:
    found.insert(0, "rank", range(1, len(found) + 1))
    return found
