"""Boards: a data set, how it is split, the length of the lists, and what others have published on it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config.schema import DataConfig

FILES = ("interactions", "held_out")
"""Options of section `data` that name a file within the root."""
LIGHTGCN = {"name": "files", "format": "lightgcn"}
LAST_IN_FILE = LIGHTGCN | {"order": "file", "split": "leave_last_out"}


@dataclass(frozen=True)
class Published:
    """A figure that others have published.

    Attributes:
        model: Its name there.
        ndcg: NDCG@k of the board.
        recall: Recall@k.
        source: Where it stands.
    """

    model: str
    ndcg: float
    recall: float
    source: str


@dataclass(frozen=True)
class Board:
    """A data set with a split.

    Attributes:
        data: Options of section `data`; files are named relative to the root.
        k: Length of the lists.
        published: Figures of others by the same protocol.
    """

    data: dict[str, Any]
    k: int = 10
    published: tuple[Published, ...] = field(default=())

    def config(self, root: Path, cache: str) -> DataConfig:
        """Return the data section, with files and the data sets of MovieLens in `root`."""
        files = {name: str(root.absolute() / self.data[name]) for name in FILES if name in self.data}
        return DataConfig(**self.data | (files or {"root": str(root.absolute())}), cache=cache)

    def missing(self, root: Path) -> list[Path]:
        """Return the files that are not there; those of MovieLens are fetched."""
        paths = [root / self.data[name] for name in FILES if name in self.data]
        return [path for path in paths if not path.exists()]


_S3_REC = "Zhou et al., CIKM 2020, their table for all items ranked"
_BEAUTY = (
    Published("SASRec", 0.0318, 0.0605, _S3_REC),
    Published("S3-Rec", 0.0327, 0.0647, _S3_REC),
    Published("TIGER", 0.0384, 0.0648, "Rajput et al., NeurIPS 2023"),
    Published("SASRec with softmax", 0.0391, 0.0736, "a public run of RecBole on the same 22,363 users"),
)
_LIGHTGCN = "He et al., SIGIR 2020"

BOARDS = {
    "ml-1m": Board({"name": "ml-1m"}),
    "ml-100k": Board({"name": "ml-100k"}),
    "ml-100k-4": Board({"name": "ml-100k", "min_value": 4.0}),
    "ml-100k-last": Board({"name": "ml-100k", "split": "leave_last_out"}),
    "ml-100k-temporal": Board({"name": "ml-100k", "split": "temporal"}),
    "ml-latest-small": Board({"name": "ml-latest-small"}),
    "ml-latest-small-last": Board({"name": "ml-latest-small", "split": "leave_last_out"}),
    "ml-latest-small-temporal": Board({"name": "ml-latest-small", "split": "temporal"}),
    "beauty": Board(LAST_IN_FILE | {"interactions": "amazon-beauty/beauty.txt"}, published=_BEAUTY),
    # What the papers do: the item before the last decides when to stop, and no model is trained on it.
    "beauty-papers": Board(
        LAST_IN_FILE | {"interactions": "amazon-beauty/beauty.txt", "validation_size": 0.1}, published=_BEAUTY
    ),
    "gowalla": Board(
        LIGHTGCN | {"interactions": "gowalla/train.txt", "held_out": "gowalla/test.txt"},
        k=20,
        published=(
            Published("LightGCN", 0.1554, 0.1830, _LIGHTGCN),
            Published("LightGCN with BSL", 0.1590, 0.1892, "Wu et al., ICDE 2024"),
            Published("BSPM", 0.1597, 0.1920, "Choi et al., SIGIR 2023"),
        ),
    ),
    "yelp2018": Board(
        LIGHTGCN | {"interactions": "yelp2018/train.txt", "held_out": "yelp2018/test.txt"},
        k=20,
        published=(Published("LightGCN", 0.0530, 0.0649, _LIGHTGCN),),
    ),
}
"""By name. Published figures are by the same split, with all items ranked that a user did not have before."""


def board_of_files(interactions: Path, held_out: Path | None, k: int) -> Board:
    """Return the board of LightGCN files, a user's items a line.

    Args:
        interactions: A pair's training file, or the only one.
        held_out: A pair's test file; None: lines are in order of time, and the last item is held out.
        k: Length of the lists.
    """
    named = {"interactions": str(interactions.absolute())}
    if held_out is None:
        return Board(LAST_IN_FILE | named, k)
    return Board(LIGHTGCN | named | {"held_out": str(held_out.absolute())}, k)
