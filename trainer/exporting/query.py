"""What an export needs to make query vectors of people who were not in the training data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.batching.tower_inputs import (
    USER,
    USER_HISTORY,
    USER_SEQUENCE,
    USER_SEQUENCE_TIMES,
    dense_widths,
)
from trainer.config.resolved import ResolvedConfig
from trainer.dataset.vocabulary import stand_in
from trainer.exporting.program import PADDING, QueryProgram, QueryTower
from trainer.facts.losses import loss_spec
from trainer.histories.recency import usual_gap
from trainer.model.builder import HISTORY
from trainer.model.retriever import TowerPair, context_vectors
from trainer.model.towers import TwoTowers
from trainer.recommender.manifest import CATEGORIES, COUNTED, HISTORY_COLUMNS, PROGRAM
from trainer.runs.run_folder import TrainedRun
from trainer.storage.attributes import Ragged

CPU = torch.device("cpu")
MOST_ROWS = 2**31 - 1


def write_query(folder: Path, config: ResolvedConfig, trained: TrainedRun, past: Ragged) -> dict[str, Any]:
    """Write the query tower, as far as someone new needs it, and return what the manifest says of it.

    Towers of ids alone need the vectors of the items and, of the closed form, what each item of a history
    adds to the query vector; others are written as a program.
    """
    learned, *closed = trained.tower_pairs
    facts: dict[str, Any] = {
        "loss": config.loss.name,
        "histories": loss_spec(config.loss.name).serves_history,
        "unit": learned.towers.unit,
        "bias": learned.towers.output_dim != learned.towers.query.dim,
        "learned_dim": learned.towers.output_dim,
        "program": None,
    }
    takes_history = bool({USER_HISTORY, USER_SEQUENCE} & learned.user_inputs.keys())
    attributes = [
        name
        for name in learned.user_inputs
        if name not in (USER, USER_HISTORY, USER_SEQUENCE, USER_SEQUENCE_TIMES)
    ]
    facts["takes_history"] = takes_history
    if not takes_history and closed:
        table = _weight(closed[0].towers, HISTORY)
        np.save(folder / HISTORY_COLUMNS, table.numpy(), allow_pickle=False)
        own = closed[0].user_inputs[HISTORY]
        assert isinstance(own, Ragged)
        owners = np.repeat(np.arange(len(past.offsets) - 1), past.lengths())
        counted = stand_in(own, len(trained.vocabulary.item_ids), owners, past.values)
        np.save(folder / COUNTED, counted, allow_pickle=False)
    if takes_history or attributes:
        facts["program"] = _write_program(folder, trained, attributes)
    return facts


def _write_program(folder: Path, trained: TrainedRun, attributes: list[str]) -> dict[str, Any]:
    learned = trained.tower_pairs[0]
    widths = dense_widths(learned.user_inputs)
    sequences = learned.user_inputs.get(USER_SEQUENCE)
    times = learned.user_inputs.get(USER_SEQUENCE_TIMES)
    inputs: list[dict[str, Any]] = [{"kind": "history", "name": "history"}]
    if isinstance(sequences, Ragged):
        assert learned.towers.encoder is not None
        inputs[0]["length"] = learned.towers.encoder.length
    if isinstance(times, Ragged):
        inputs.append({"kind": "times", "name": "times", "gap": usual_gap(times)})
    categories: dict[str, list[Any]] = {}
    for table in attributes:
        name, column = table.removeprefix(f"{USER}_"), learned.user_inputs[table]
        entry: dict[str, Any] = {
            "kind": "numbers" if table in widths else "bag",
            "name": name,
            "table": table,
        }
        if table in widths:
            entry["width"] = widths[table]
        else:
            categories[name] = trained.vocabulary.user_categories[name].to_pylist()
            assert isinstance(column, Ragged)
            entry["unknown"] = column.take(np.array([len(column.offsets) - 2]))[1].tolist()
        inputs.append(entry)
    (folder / CATEGORIES).write_text(json.dumps(categories), encoding="utf-8")
    program = QueryProgram(
        [_query_tower(pair, len(trained.vocabulary.item_ids)) for pair in trained.tower_pairs],
        [(entry["kind"], entry.get("table", "")) for entry in inputs],
        [USER_HISTORY, HISTORY],
    )
    _save(folder / PROGRAM, program, inputs)
    return {"inputs": inputs}


def _query_tower(pair: TowerPair, item_count: int) -> QueryTower:
    towers = pair.towers
    tables, fixed = {}, {}
    for name in towers.query.features:
        weight = _weight(towers, name)
        if name == USER:  # of someone new: what the last row looks up
            column = pair.user_inputs[USER]
            rows = (
                column.take(np.array([len(column.offsets) - 2]))[1]
                if isinstance(column, Ragged)
                else column[-1:]
            )
            own = weight[torch.from_numpy(np.asarray(rows, np.int64))]
            fixed[name] = own.sum(0) / len(own) ** 0.5
        else:
            tables[name] = weight
    context = None if towers.encoder is None else context_vectors(pair, np.arange(item_count), CPU)
    return QueryTower(towers, tables, fixed, context)


def _weight(towers: TwoTowers, table: str) -> torch.Tensor:
    return towers.query.embeddings.state_dict()[f"embedding_bags.{table}.weight"].detach()


def _save(path: Path, program: QueryProgram, inputs: Sequence[Mapping[str, Any]]) -> None:
    """Export a program for any number of people and any length of bags."""
    rows = torch.export.Dim("people", min=1, max=MOST_ROWS)
    given, shapes = [], []
    for number, entry in enumerate(inputs):
        free = torch.export.Dim(f"length_{number}", min=1, max=MOST_ROWS)
        if entry["kind"] == "numbers":
            given.append(torch.zeros(3, entry["width"]))
            shapes.append({0: rows})
        elif "length" in entry or entry["kind"] == "times":
            given.append(torch.zeros(3, inputs[0]["length"], dtype=torch.int64))
            shapes.append({0: rows})
        else:
            given.append(torch.full((3, 5), PADDING))
            shapes.append({0: rows, 1: free})
    with torch.no_grad():
        exported = torch.export.export(program.eval(), tuple(given), dynamic_shapes=(tuple(shapes),))
    exported.example_inputs = None  # which torch would save as a pickle
    for node in exported.graph.nodes:  # no paths of this machine
        node.meta.pop("stack_trace", None)
    torch.export.save(exported, path)
