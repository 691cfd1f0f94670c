"""What checkpoints keep, and what they cost.

    python -m tests.benchmarks.checkpoints opened [--json FILE]
    python -m tests.benchmarks.checkpoints costs [--ranks 2] [--rows 1000000] [--dim 128] [--json FILE]

`opened` trains a few steps, saves, opens what was saved at another world size and under another sharding,
and saves that again: weights and optimizer states must be equal in both checkpoints, bit by bit, or opening
must be refused. `costs` trains two tables of 1 GB without checkpoints, with checkpoints that the training
waits for, and with those that a thread writes: seconds that one checkpoint adds, and bytes. Set
OMP_NUM_THREADS=1.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks.plans import BATCH, step_at_random
from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import Losses, configured, small_dataset, source_of
from trainer.config.schema import Config
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.errors import CheckpointError
from trainer.fitting.components import assemble
from trainer.fitting.loop import fit
from trainer.model.towers import TwoTowers
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import Cluster, this_cpu
from trainer.planning.planner import make_plan
from trainer.runs.async_save import AsyncSaver
from trainer.runs.checkpoint import entries, read_entry, save
from trainer.runs.checkpoint_store import newest
from trainer.runs.resume import resume
from trainer.runs.validation_history import SavedProgress
from trainer.sharding.optimizer_state import optimizer_state
from trainer.sharding.shard import shard
from trainer.sharding.table_values import fill_tables, normal_block
from trainer.sharding.torchrec_plan import sharding_plan

PLACES = (
    *((1, "table_wise"), (4, "table_wise"), (2, "column_wise"), (4, "column_wise")),
    *((3, "row_partitioned"), (2, "data_parallel")),
)
"""Ranks and sharding; `data_parallel`, and all under Adam, has the dense kernel, the others a fused one."""
OPTIMIZERS = ("rowwise_adagrad", "adagrad", "adam")
STEPS, EVERY, ROUNDS = 600, 200, 3


def planned(optimizer: str, kind: str) -> Config:
    """A short training with dense layers."""
    return configured(
        f"--model.hidden 8 --run.save_every 4 --optimizer.name {optimizer} --sharding.kind {kind}"
    )


def train(world: World, config: Config, folder: Path, run: Path) -> None:
    """Train, and leave a checkpoint in the middle."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    progress: Any = Losses()
    fit(config, dataset, parts, source_of(config, dataset, parts), world, progress, run)


def open_and_save(world: World, config: Config, folder: Path, run: Path, again: Path) -> None:
    """Open a run's checkpoint and save it in another folder."""
    parts = assemble(config, open_dataset(folder), world)
    saved = newest(run)
    resume(saved, config.optimizer.name, parts.model, parts.optimizer)
    save(
        again,
        saved.step,
        parts.model,
        world,
        optimizer_state(parts.model, parts.optimizer, config.optimizer.name),
    )


def outcome(run: Path, again: Path, work: Any) -> str:
    """`equal` where both checkpoints are, or the first words of the refusal."""
    try:
        work()
    except CheckpointError as error:
        return f"refused: {error}".partition(". ")[0]
    one, other = newest(run).folder, newest(again).folder
    same = entries(one) == entries(other) and all(
        torch.equal(read_entry(one, key), read_entry(other, key)) for key in entries(one)
    )
    return "equal" if same else "DIFFERENT"


def opened(folder: Path) -> dict[str, dict[str, str]]:
    """Outcomes by optimizer and place of saving, and by place of opening."""
    data, table = small_dataset(folder), {}
    for optimizer in OPTIMIZERS:
        kinds = [place for place in PLACES if optimizer != "adam" or place[1] != "column_wise"]
        for size, kind in kinds:
            run, row = folder / f"{optimizer}-{size}-{kind}", {}
            run_on_ranks(size, train, planned(optimizer, kind), data, run)
            for other, another in kinds:
                again = folder / "again"
                arguments = (planned(optimizer, another), data, run, again)
                row[f"{another} {other}"] = outcome(
                    run, again, lambda size=other, given=arguments: run_on_ranks(size, open_and_save, *given)
                )
                shutil.rmtree(again, ignore_errors=True)
            table[f"{optimizer} {kind} {size}"] = row
    return table


def seconds(world: World, run: Path, rows: int, dim: int, way: str) -> float:
    """Of `STEPS` steps on two tables, with a checkpoint after every `EVERY`, until all are written."""
    towers = TwoTowers({"user": rows}, {"item": rows}, dim)
    wishes = {name: TableConstraint(("table_wise",), BATCH) for name in ("user", "item")}
    cluster = Cluster(this_cpu(), world.size, world.size)
    plan = make_plan(towers, wishes, optimizer="rowwise_adagrad", cluster=cluster)
    followed = sharding_plan(plan, towers, "cpu", world.local_size)
    rates = dict.fromkeys(wishes, 0.1)
    model, optimizer = shard(
        towers,
        followed,
        device=world.device,
        optimizer="rowwise_adagrad",
        learning_rates=rates,
        dense_learning_rate=0.1,
        weight_decay=0,
    )
    fill_tables(model, lambda table, block: normal_block(0, table, block, dim, 0.1))
    generator, saver = torch.Generator().manual_seed(world.rank), AsyncSaver(world)
    started = time.perf_counter()
    for step in range(1, STEPS + 1):
        step_at_random(model, optimizer, rows, BATCH // world.size, generator)
        if step % EVERY == 0 and way == "waited for":
            save(run, step, model, world)
        elif step % EVERY == 0 and way == "meanwhile":
            saver.finish()
            saver.save(run, step, model, None, SavedProgress(), on_published=lambda: None)
    saver.finish()
    return time.perf_counter() - started


def costs(folder: Path, ranks: int, rows: int, dim: int) -> dict[str, Any]:
    """Seconds of a step, and those that a checkpoint adds in both ways; medians of rounds."""
    found: dict[str, list[float]] = {way: [] for way in ("none", "waited for", "meanwhile")}
    for _ in range(ROUNDS):
        for way in found:
            run = folder / "run"
            found[way].append(max(run_on_ranks(ranks, seconds, run, rows, dim, way, timeout=600)))
            shutil.rmtree(run, ignore_errors=True)
    middle = {way: median(values) for way, values in found.items()}
    added = {way: (middle[way] - middle["none"]) / (STEPS // EVERY) for way in ("waited for", "meanwhile")}
    step = middle["none"] / STEPS
    return {
        "bytes": 2 * rows * dim * 4,
        "seconds_of_a_step": step,
        "seconds_added_by_a_checkpoint": added,
        "step_over_one_without_if_saved_every_1000": {
            way: 1 + value / 1000 / step for way, value in added.items()
        },
    }


def main() -> None:
    """Run one of both and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["opened", "costs"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each of two tables")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "opened":
            figures: dict[str, Any] = opened(Path(folder))
            for saved, row in figures.items():
                print(
                    saved, *(f"    {place}: {result}" for place, result in row.items()), sep="\n", flush=True
                )
        else:
            figures = costs(Path(folder), options.ranks, options.rows, options.dim)
            print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
