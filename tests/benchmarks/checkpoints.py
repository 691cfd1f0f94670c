"""What checkpoints keep, and what they cost.

    python -m tests.benchmarks.checkpoints opened [--json FILE]
    python -m tests.benchmarks.checkpoints costs [--ranks 2] [--dim 512] [--json FILE]

`opened` trains a few steps, saves, opens what was saved at another world size and under another sharding, and
saves that again: weights and optimizer states must be equal in both checkpoints, bit by bit, or opening must
be refused. `costs` trains without checkpoints, with checkpoints that the training waits for, and with those
that a thread writes: seconds that one checkpoint adds, and bytes. Set OMP_NUM_THREADS=1.
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

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import Losses, configured, small_dataset, source_of
from trainer.config import Config
from trainer.data.dataset import open_dataset
from trainer.data.prepare import prepare_data
from trainer.errors import CheckpointError
from trainer.options import parse_config
from trainer.parallel.world import World
from trainer.training.assembly import assemble
from trainer.training.by_size import by_size, with_fixed_values
from trainer.training.checkpoint import entries, newest, read_entry, save
from trainer.training.fit import fit
from trainer.training.saving import go_on, states_of

PLACES = (
    *((1, "table_wise"), (4, "table_wise"), (2, "column_wise"), (4, "column_wise")),
    *((3, "row_partitioned"), (2, "data_parallel")),
)
"""Ranks and sharding; `data_parallel`, and all under Adam, has the dense kernel, the others a fused one."""
OPTIMIZERS = ("rowwise_adagrad", "adagrad", "adam")
SAVES, ROUNDS = 6, 5


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
    go_on(saved, config, parts)
    save(again, saved.step, parts.model, world, states_of(config, parts))


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


def seconds(world: World, config: Config, folder: Path, run: Path) -> float:
    """Of a whole training, on this rank."""
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    progress: Any = Losses()
    source = source_of(config, dataset, parts)
    started = time.perf_counter()
    fit(config, dataset, parts, source, world, progress, run)
    return time.perf_counter() - started


def costs(folder: Path, ranks: int, dim: int) -> dict[str, Any]:
    """Seconds that a checkpoint adds where the training waits for it and where not; medians of rounds."""
    texts = f"--data.name synthetic --data.cache {folder} --model.dim {dim} --batches.size 64 --run.epochs 6"
    made = f"{texts} --run.choose false --optimizer.name rowwise_adagrad --run.keep_last 1"
    data = prepare_data(parse_config(made.split()).data)
    dataset = open_dataset(data)
    ways = {"none": "0", "waited for": "16", "meanwhile": "16 --run.save_async true"}
    found: dict[str, list[float]] = {way: [] for way in ways}
    size = 0
    for number in range(ROUNDS):
        for way, saving in ways.items():
            config = parse_config([*made.split(), "--run.save_every", *saving.split()])
            sized = by_size(config, dataset.user_count, dataset.item_count, len(dataset.train))
            run = folder / f"{way} {number}"
            found[way].append(max(run_on_ranks(ranks, seconds, with_fixed_values(sized), data, run)))
            size = sum(file.stat().st_size for file in run.rglob("*.distcp")) or size
    middle = {way: median(values) for way, values in found.items()}
    added = {way: (middle[way] - middle["none"]) / (SAVES - 1) for way in ("waited for", "meanwhile")}
    return {"bytes": size, "seconds": middle, "seconds_added_by_one": added}


def main() -> None:
    """Run one of both and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["opened", "costs"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--dim", type=int, default=512)
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
            figures = costs(Path(folder), options.ranks, options.dim)
            print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
