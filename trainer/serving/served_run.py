"""A run as `recommend` opens it: checkpoint, vocabulary and catalogue, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
import pyarrow as pa
import yaml

from trainer.dataset.vocabulary import Vocabulary, open_vocabulary
from trainer.errors import UserError
from trainer.facts.losses import loss_spec
from trainer.ranking.catalogue import Catalogue
from trainer.ranking.id_files import read_ids
from trainer.ranking.selection import Selection, make_selection
from trainer.runs.checkpoint_store import CONFIG, SavedCheckpoint, check_is_run, finished_step, newest


class Restrictions(TypedDict, total=False):
    """What restricts lists; see `trainer.ranking.selection`.

    Attributes:
        where: Conditions on attributes, such as `genres=Comedy`, all of which must be met.
        allow: The raw ids, or a file of them, of the only items that may be listed; None: any.
        deny: The same of items that may not be listed.
        at_most: Most items of one value in a list, by attribute.
    """

    where: Sequence[str]
    allow: Path | Sequence[str | int] | None
    deny: Path | Sequence[str | int]
    at_most: Mapping[str, int] | None


@dataclass(frozen=True)
class ServedRun:
    """A run that lists are made from.

    Attributes:
        run: Its folder.
        saved: Its newest checkpoint.
        vocabulary: Its users and items.
    """

    run: Path
    saved: SavedCheckpoint
    vocabulary: Vocabulary

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items."""
        known = self.vocabulary
        return Catalogue(known.item_ids, known.titles, known.item_name, known.item_attributes)

    @cached_property
    def _config(self) -> dict[str, Any]:
        # Checking all of the configuration takes as long as the rest of an answer.
        return yaml.safe_load((self.saved.folder / CONFIG).read_text())

    @property
    def dim(self) -> int:
        """Width of the learned vectors without bias."""
        return self._config["model"]["dim"]

    def item_columns(self) -> list[str]:
        """Return names of columns that may hold ids of items, in files."""
        name = self.vocabulary.item_name
        return list(dict.fromkeys(("item", "item_id", name, f"{name}_id", f"{name}Id")))

    @property
    def serves_histories(self) -> bool:
        """Whether a history can be served, which has no values."""
        return loss_spec(self._config["loss"]["name"]).serves_history

    def selection(
        self,
        where: Sequence[str] = (),
        allow: Path | Sequence[str | int] | None = None,
        deny: Path | Sequence[str | int] = (),
        at_most: Mapping[str, int] | None = None,
    ) -> Selection:
        """Return what restricts lists of this run; arguments as in `Restrictions`.

        Raises:
            UserError: A restriction does not fit the items, or leaves none.
        """
        columns = self.item_columns()
        allowed = read_ids(allow, "--allow", columns) if isinstance(allow, Path) else allow
        denied = read_ids(deny, "--deny", columns) if isinstance(deny, Path) else deny
        return make_selection(self.catalogue, where, allowed, denied, at_most)

    def table(self, rows: Any, scores: Any) -> pd.DataFrame:
        """Return items and scores: columns `item` (raw id), `title` (None where there is none), `score`.

        Args:
            rows: (n,) item rows.
            scores: (n,) their scores.
        """
        titles, ids = self.vocabulary.titles, self.vocabulary.item_ids
        rows = pa.array(rows, pa.int64())
        return pd.DataFrame(
            {
                "item": ids.take(rows).to_pylist(),
                # As objects: pandas' own string type would turn None into a float.
                "title": pd.Series(
                    titles.take(rows).to_pylist() if titles is not None else [None] * len(rows), dtype=object
                ),
                "score": scores.tolist(),
            }
        )


def open_served(run: Path, k: int) -> ServedRun:
    """Open a run's newest checkpoint and its vocabulary.

    Raises:
        UserError: If `k` is not from 1 up.
        CheckpointError: If the folder is no run.
    """
    if k < 1:
        raise UserError(f"-k {k}: a whole number from 1 up is needed")
    check_is_run(run)
    return ServedRun(run, newest(run, finished_step(run)), open_vocabulary(run))
