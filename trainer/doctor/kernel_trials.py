"""Trains tiny tables for one step by each combination of device, sharding and optimizer.

`python -m trainer.doctor.kernel_trials cpu,table_wise,sgd ...` prints a line of JSON before and one after
each combination, so that what ends the process, or keeps it waiting, is known.

A step is right if it is the one that the optimizer's rule gives by hand. The loss is the sum of the dot
products of users and items, so that the gradient of a user's row is the item's row, and the other way round;
each row is looked up once.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainer.doctor.probe import say, words_of

if TYPE_CHECKING:
    import torch

DIM, ROWS, RATE, TOLERANCE = 8, 12, 0.5, 2e-3
LOOKED_UP = {"user": (4, 1, 10), "item": (0, 7, 2)}

FIRST_STEPS: dict[str, "Callable[[torch.Tensor], torch.Tensor]"] = {
    "sgd": lambda gradient: gradient,
    # The means of the first step are the gradient itself, or its square: what remains is its sign.
    "adagrad": lambda gradient: gradient.sign(),
    "adam": lambda gradient: gradient.sign(),
    "adam_fused": lambda gradient: gradient.sign(),
    "rowwise_adagrad": lambda gradient: gradient / gradient.square().mean(1, keepdim=True).sqrt(),
}
"""What the first step takes from a row at a learning rate of 1, by optimizer."""


def main(combinations: list[str]) -> None:
    """Try the combinations in order, in a world of one rank."""
    from trainer.distributed.world import join_world
    from trainer.installation import quiet_libraries

    quiet_libraries()
    device = combinations[0].split(",")[0]
    with join_world(device, timeout_seconds=60):
        for combination in combinations:
            say(trying=combination)
            try:
                difference = try_step(*combination.split(","))
                fault = (
                    None if difference < TOLERANCE else f"weights differ by {difference:.2g} from the rule"
                )
            except Exception as error:
                fault = words_of(error)
            say(tried=combination, fault=fault)


def try_step(device: str, sharding: str, optimizer: str) -> float:
    """Return the largest difference of a weight after one step from what the rule gives."""
    import torch
    from torchrec import KeyedJaggedTensor

    from trainer.model.towers import TwoTowers
    from trainer.planning.constraints import TableConstraint
    from trainer.planning.hardware import Cluster, hardware_here
    from trainer.planning.planner import make_plan
    from trainer.sharding.optimizers import update, zero_gradients
    from trainer.sharding.shard import shard
    from trainer.sharding.table_values import fill_tables
    from trainer.sharding.torchrec_plan import sharding_plan

    partitions = dict.fromkeys(LOOKED_UP, 2) if sharding == "row_partitioned" else {}
    towers = TwoTowers({"user": ROWS}, {"item": ROWS}, DIM, "dot", partitions=partitions)
    constraints = {name: TableConstraint((sharding,), bags=3) for name in LOOKED_UP}
    cluster = Cluster(hardware_here(device), 1, 1)
    plan = make_plan(towers, constraints, optimizer=optimizer, cluster=cluster)
    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    model, combined = shard(
        towers,
        sharding_plan(plan, towers, device, 1),
        device=place,
        optimizer=optimizer,
        learning_rates=dict.fromkeys(LOOKED_UP, RATE),
        dense_learning_rate=RATE,
        weight_decay=0.0,
    )
    before = {name: normal_values(name) for name in LOOKED_UP}
    fill_tables(model, lambda name, rows: normal_values(name)[rows])
    ones = torch.ones(3, dtype=torch.int32)
    bags = [
        KeyedJaggedTensor([name], torch.tensor(rows), lengths=ones).to(place)
        for name, rows in LOOKED_UP.items()
    ]
    zero_gradients(combined)
    query, candidates = model(*bags)
    (query * candidates).sum().backward()
    update(combined)

    rows, wanted = {name: torch.tensor(each) for name, each in LOOKED_UP.items()}, {}
    for name, other in (("user", "item"), ("item", "user")):
        wanted[name] = before[name].clone()
        wanted[name][rows[name]] -= RATE * FIRST_STEPS[optimizer](before[other][rows[other]])
    return max(float((weights - wanted[name]).abs().max()) for name, weights in weights_of(model).items())


def normal_values(name: str) -> "torch.Tensor":
    """Return the values of a table before the step, (ROWS, DIM) float32."""
    from trainer.sharding.table_values import normal_block

    return normal_block(7, name, slice(0, 16), DIM, 1.0)[:ROWS]


def weights_of(model: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """Return copies of all tables by name, their shards joined."""
    import torch

    from trainer.sharding.model_state import full_shape, local_shards, table_name, whole_state

    found = {}
    for key, value in whole_state(model).items():
        if name := table_name(key):
            found[name] = torch.full(tuple(full_shape(value)), float("nan"))
            for part, row, column in local_shards(value):
                found[name][row : row + part.shape[0], column : column + part.shape[1]] = part.detach().cpu()
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
