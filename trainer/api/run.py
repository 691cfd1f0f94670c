"""A trained run in Python: its figures as frames, its recommendations, vectors and plan."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from trainer.api.options import options_of
from trainer.api.shown_plan import ShownPlan
from trainer.config.parser import read_config
from trainer.config.schema import Config
from trainer.dataset.vocabulary import open_vocabulary
from trainer.errors import CheckpointError
from trainer.facts.baselines import BASELINES
from trainer.installation import quiet_libraries
from trainer.planning.plan import open_plan
from trainer.runs.checkpoint_store import CONFIG, METRICS, check_is_run
from trainer.runs.run_folder import PLAN, RECORDS
from trainer.serving.embed import all_vectors
from trainer.serving.recommend import recommend, recommend_by_history
from trainer.training.run_evaluation import evaluate


def open_run(path: str | os.PathLike[str]) -> "Run":
    """Open a run folder.

    Raises:
        CheckpointError: It is none.
    """
    return Run(Path(path))


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
        return f"Run({str(self.path)!r})"

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
            raise CheckpointError(
                f"{self.path}: its training has not ended, so that there are no metrics. Go on with: "
                f'trainer.train(changes={{"run.dir": "{self.path}"}})'
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
        user: object = None,
        k: int = 10,
        *,
        history: Sequence[object] | None = None,
        keep_seen: bool = False,
    ) -> pd.DataFrame:
        """Return the best items for a user, or for someone new who has some items.

        Args:
            user: Raw id.
            k: Items wanted.
            history: Raw ids of items, the latest last, in place of `user`.
            keep_seen: Whether to rank what is known of the user too.

        Returns:
            Columns `rank`, `item`, `title` and `score`.
        """
        if history is not None:
            found = recommend_by_history(self.path, [str(item) for item in history], k, keep_seen)
        else:
            found = recommend(self.path, str(user), k, keep_seen)
        found.insert(0, "rank", range(1, len(found) + 1))
        return found

    def vectors(self, side: Literal["user", "item"]) -> pd.DataFrame:
        """Return the vectors of all users or items; the dot product of two is a score.

        Returns:
            (rows, D) float32, indexed by raw id.
        """
        rows, ids = all_vectors(self.path, side), getattr(open_vocabulary(self.path), f"{side}_ids")
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
            compare=None if compare is None else Path(compare),
            as_json=True,
            options=options_of(changes or {}),
        )
        return json.loads(text or "{}")
