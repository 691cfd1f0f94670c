"""How large the tables of a training are, and how often a step looks them up."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer.batching.tower_inputs import (
    USER,
    USER_HISTORY,
    USER_SEQUENCE_TIMES,
    Inputs,
    context_table,
    dense_widths,
    looked_up,
    table_rows,
)
from trainer.config.resolved import ResolvedConfig, ResolvedLossConfig
from trainer.config.schema import ModelConfig
from trainer.dataset.dataset import Dataset
from trainer.facts.histories import history_spec
from trainer.facts.losses import loss_spec
from trainer.model.builder import make_closed_towers, make_towers
from trainer.model.retriever import CombinedTowers
from trainer.storage.attributes import Ragged
from trainer.storage.id_hashes import HASHES


@dataclass(frozen=True)
class Workload:
    """Rows of every table, and what one step looks up and gathers.

    Attributes:
        user_tables: Rows of each table of the query tower, by name.
        item_tables: Rows of each table of the candidate tower, by name.
        item_name: What the data set calls its items; the name of their table.
        closed_items: Rows of each table of the closed form.
        rows: Rows of a step over all ranks.
        candidates: Items that a step looks up over all ranks.
        gathered: Vectors of rows or of candidates that every rank needs in full, whatever the plan.
        pooling: Mean ids per bag, of the tables where it is not 1.
        user_dense: Numbers in each feature of the query tower that is a number or a vector.
        item_dense: The same for the candidate tower.
        timed: Whether ordered histories have times.
    """

    user_tables: Mapping[str, int]
    item_tables: Mapping[str, int]
    item_name: str
    closed_items: int
    rows: int
    candidates: int
    gathered: int
    pooling: Mapping[str, float]
    user_dense: Mapping[str, int] = field(default_factory=dict)
    item_dense: Mapping[str, int] = field(default_factory=dict)
    timed: bool = False


def workload_of(config: ResolvedConfig, dataset: Dataset, users: Inputs, items: Inputs) -> Workload:
    """Return the workload of a training on a data set.

    Args:
        config: Configuration of the training.
        dataset: Prepared data.
        users: Features of the query tower.
        items: Features of the candidate tower.
    """
    pooling = {
        name: float(column.lengths().mean())
        for name, column in (*looked_up(users).items(), *looked_up(items).items())
        if isinstance(column, Ragged)
    }
    if USER_HISTORY in pooling:
        pooling[USER_HISTORY] *= 1 - config.model.history_dropout
    pooling |= hashed_pooling(config.model, dataset.item_name)
    per_user = dataset.interaction_count("train") / max(dataset.user_count, 1)
    candidates, gathered = items_of_step(config, dataset.item_count, per_user)
    return Workload(
        user_tables=table_rows(dataset, users, config.model.hashed_rows),
        item_tables=table_rows(dataset, items, config.model.hashed_rows),
        item_name=dataset.item_name,
        closed_items=dataset.item_count,
        rows=config.batches.size,
        candidates=candidates,
        gathered=gathered,
        pooling=pooling,
        user_dense=dense_widths(users),
        item_dense=dense_widths(items),
        timed=USER_SEQUENCE_TIMES in users,
    )


def items_of_step(config: ResolvedConfig, items: int, per_user: float) -> tuple[int, int]:
    """Return about how many items a step looks up, and how many vectors every rank needs in full.

    Args:
        config: Configuration of the training.
        items: Items of the catalogue.
        per_user: Mean number of training interactions of a user.
    """
    per_row = {"user": per_user, "interaction": 1.0, "next": min(per_user, config.model.history_length)}
    rows = config.batches.size
    candidates, gathered = step_sizes(config.loss, rows, items, rows * per_row[config.batches.rows])
    # Ordered histories are made of the candidates of all ranks.
    return candidates, candidates if config.batches.rows == "next" else gathered


def hashed_pooling(model: ModelConfig, item_name: str) -> dict[str, float]:
    """Return the mean rows that an id looks up, by table of ids; empty where each has one.

    Items whose ids a step drops look up the reserved row alone.
    """
    if not model.hashed_rows:
        return {}
    items = HASHES - (HASHES - 1) * model.item_id_dropout
    return {USER: float(HASHES), item_name: items, context_table(item_name): items}


def step_sizes(loss: ResolvedLossConfig, rows: int, items: int, positives: float) -> tuple[int, int]:
    """Return about how many items a step looks up, and how many vectors every rank needs in full.

    Args:
        loss: Loss section of the configuration.
        rows: Rows of a step over all ranks.
        items: Items of the catalogue.
        positives: Mean number of positives of all rows of a step together.
    """
    if loss_spec(loss.name).pointwise:  # a row has one candidate of its own
        return rows, 0
    counts = {
        "catalogue": items,
        "in_batch": round(positives),
        "sampled": round(positives) + (loss.samples or 0),
    }
    candidates = min(items, counts[loss.candidates])
    return candidates, rows if loss_spec(loss.name).gathers_rows else candidates


def make_all_towers(
    config: ResolvedConfig, workload: Workload, partitions: Mapping[str, int]
) -> CombinedTowers:
    """Make the learned towers, and the closed-form ones if there are any, on the meta device.

    Args:
        config: Configuration of the training.
        workload: Rows of the tables.
        partitions: Number of partitions of each row-partitioned table.
    """
    rank = config.model.low_rank
    learned = make_towers(
        config,
        workload.user_tables,
        workload.item_tables,
        workload.item_name,
        partitions,
        user_dense=workload.user_dense,
        item_dense=workload.item_dense,
        timed=workload.timed,
    )
    closed = None
    if rank:
        dtype = config.model.table_dtype
        ordered = history_spec(config.model.history).ordered
        closed = make_closed_towers(
            workload.item_name,
            workload.closed_items,
            rank,
            partitions,
            dtype,
            history_length=config.model.history_length if ordered else 0,
        )
    return CombinedTowers(learned, closed)
