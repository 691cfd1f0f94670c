"""How large the tables of a training are, and how often a step looks them up."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.batching.tower_inputs import USER_HISTORY, Inputs, table_rows
from trainer.config.losses import loss_spec
from trainer.config.resolved import ResolvedConfig
from trainer.dataset.attributes import Ragged
from trainer.dataset.dataset import Dataset
from trainer.model.builder import make_closed_towers, make_towers
from trainer.model.retriever import CombinedTowers


@dataclass(frozen=True)
class Workload:
    """How large the tables are and how often a step visits them.

    Attributes:
        user_tables, item_tables: rows of each feature's table of the learned towers.
        item_name: what the data set calls its items, and their table.
        closed_items: rows of the closed form's tables.
        rows: of a step over all ranks.
        candidates: that a step looks up over all ranks.
        gathered: vectors of rows, or candidates, of a step that every rank needs of all, whatever the plan.
        pooling: ids in a bag, on average, of the tables where it is not 1.
    """

    user_tables: Mapping[str, int]
    item_tables: Mapping[str, int]
    item_name: str
    closed_items: int
    rows: int
    candidates: int
    gathered: int
    pooling: Mapping[str, float]


def workload_of(config: ResolvedConfig, dataset: Dataset, users: Inputs, items: Inputs) -> Workload:
    """Sizes of a training on a data set.

    Args: users, items: features of the two towers.
    """
    rows = config.batches.size
    by_user = config.batches.rows == "user"
    positives = rows * (len(dataset.train) / max(dataset.user_count, 1) if by_user else 1)
    pooling = {
        name: float(column.lengths().mean())
        for name, column in (*users.items(), *items.items())
        if isinstance(column, Ragged)
    }
    if USER_HISTORY in pooling:
        pooling[USER_HISTORY] *= 1 - config.model.history_dropout
    candidates = candidates_of_step(config, dataset.item_count, positives)
    return Workload(
        user_tables=table_rows(dataset, users),
        item_tables=table_rows(dataset, items),
        item_name=dataset.item_name,
        closed_items=dataset.item_count,
        rows=rows,
        candidates=candidates,
        gathered=gathered_count(config, rows, min(candidates, dataset.item_count)),
        pooling=pooling,
    )


def candidates_of_step(config: ResolvedConfig, items: int, positives: float) -> int:
    """About how many items a step looks up, whose rows have so many positives together."""
    if loss_spec(config.loss.name).pointwise:
        return config.batches.size
    if config.loss.candidates == "catalogue":
        return items
    return min(items, round(positives) + (config.loss.samples or 0))


def rows_are_gathered(config: ResolvedConfig) -> bool:
    """Whether each rank scores its candidates for the rows of all ranks, and not its rows for all candidates.

    Of a step's rows there are mostly fewer, so that vectors and gradients of fewer have to be exchanged.
    """
    return loss_spec(config.loss.name).gathers_rows


def gathered_count(config: ResolvedConfig, rows: int, candidates: int) -> int:
    """How many vectors, of a step's rows or of its candidates, every rank needs of all, whatever the plan."""
    if loss_spec(config.loss.name).pointwise:
        return 0
    return rows if rows_are_gathered(config) else candidates


def make_all_towers(config: ResolvedConfig, sizes: Workload, partitions: Mapping[str, int]) -> CombinedTowers:
    """Learned towers, and the closed form's beside them where there is one, on the meta device.

    Args: partitions: how many tables a row-partitioned table is cut into, by table.
    """
    rank = config.model.low_rank
    learned = make_towers(config, sizes.user_tables, sizes.item_tables, sizes.item_name, partitions)
    closed = None
    if rank:
        dtype = config.model.table_dtype
        closed = make_closed_towers(sizes.item_name, sizes.closed_items, rank, partitions, dtype)
    return CombinedTowers(learned, closed)
