"""Sharding in a world of one: initial values, schedules, and every optimizer against its written-out rule."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torchrec import KeyedJaggedTensor

from tests import layouts
from trainer.distributed.world import World, join_world
from trainer.errors import ConfigError
from trainer.model.towers import TwoTowers
from trainer.sharding.model_state import table_name
from trainer.sharding.optimizers import schedule_factor, set_learning_rates
from trainer.sharding.table_values import INITIAL_BLOCK_ROWS, fill_tables, initial_blocks, normal_block

DIM, EPSILON = 4, 1e-8
FIRST_BLOCK = slice(0, INITIAL_BLOCK_ROWS)
RATES = {"user": 0.5, "item": 0.25, "user_age": 0.125}
ROWS = {"user": 6, "item": 5, "user_age": 3}
USERS, ITEMS, AGES = torch.tensor([4, 1, 4]), torch.tensor([0, 3, 2]), torch.tensor([2, 0, 1])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join_world("cpu") as joined:
        yield joined


def initial(table: str, rows: slice) -> torch.Tensor:
    return normal_block(7, table, rows, DIM, 1.0)


def sharded(optimizer: str, sharding: str = "table_wise", hidden: tuple[int, ...] = (), **options: Any):
    towers = TwoTowers(
        {name: ROWS[name] for name in ("user", "user_age")},
        {"item": ROWS["item"]},
        DIM,
        "dot",
        hidden=list(hidden),
    )
    model, combined = layouts.sharded(towers, sharding, optimizer, RATES, **options)
    fill_tables(model, initial)
    return model, combined


def inputs() -> tuple[KeyedJaggedTensor, KeyedJaggedTensor]:
    ones = torch.ones(3, dtype=torch.int32)
    queries = KeyedJaggedTensor(
        ["user", "user_age"], torch.cat([USERS, AGES]), lengths=torch.cat([ones, ones])
    )
    return queries, KeyedJaggedTensor(["item"], ITEMS, lengths=ones)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    query, candidates = model(*inputs())
    (query * candidates).sum().backward()
    optimizer.step()


def tables(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all tables by name."""
    return {
        str(table_name(key)): (value.local_shards()[0].tensor if hasattr(value, "local_shards") else value)
        .detach()
        .clone()
        for key, value in model.state_dict().items()
        if table_name(key)
    }


def gradients(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradient of the sum of the rows' dot products, by hand.

    The score of a row is (user + age) . item, so the gradient of a user's and an age's row is the item's
    vector, and that of an item's row is the sum of the two; a row that is looked up twice adds both.
    """
    found = {name: torch.zeros_like(value) for name, value in weights.items()}
    for user, age, item in zip(USERS.tolist(), AGES.tolist(), ITEMS.tolist(), strict=True):
        found["user"][user] += weights["item"][item]
        found["user_age"][age] += weights["item"][item]
        found["item"][item] += weights["user"][user] + weights["user_age"][age]
    return found


def assert_same_tables(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() == ROWS.keys()
    for name, weights in found.items():
        torch.testing.assert_close(weights, expected[name], rtol=1e-4, atol=1e-5)


class Reference:
    """The optimizers as their papers write them, one table at a time."""

    def __init__(
        self, optimizer: str, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.optimizer, self.weight_decay, self.betas = optimizer, weight_decay, betas
        self.sums: dict[str, torch.Tensor] = {}
        self.means: dict[str, torch.Tensor] = {}
        self.steps = 0

    def step(self, weights: dict[str, torch.Tensor], factor: float = 1.0) -> dict[str, torch.Tensor]:
        self.steps += 1
        found = gradients(weights)
        return {
            name: weights[name] - factor * RATES[name] * self.direction(name, weights[name], found[name])
            for name in weights
        }

    def direction(self, name: str, weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient + self.weight_decay * weight
        if self.optimizer == "sgd":
            return gradient
        # Duchi et al., JMLR 2011: divide by the root of the sum of squares so far. Row-wise: of their mean
        # over the row. Kingma and Ba, ICLR 2015: decaying means with the bias of their zero start taken out.
        square = gradient**2
        if self.optimizer == "rowwise_adagrad":
            square = square.mean(1, keepdim=True).expand_as(square)
        if self.optimizer == "adam":
            first, second = self.betas
            mean = first * self.means.get(name, torch.zeros_like(weight)) + (1 - first) * gradient
            total = second * self.sums.get(name, torch.zeros_like(weight)) + (1 - second) * square
            self.means[name], self.sums[name] = mean, total
            corrected = total / (1 - second**self.steps)
            return mean / (1 - first**self.steps) / (corrected.sqrt() + EPSILON)
        total = self.sums.get(name, torch.zeros_like(weight)) + square
        self.sums[name] = total
        return gradient / (total.sqrt() + EPSILON)


KINDS = [
    ("rowwise_adagrad", "table_wise"),
    ("rowwise_adagrad", "column_wise"),
    ("rowwise_adagrad", "data_parallel"),
    ("adagrad", "table_wise"),
    ("adagrad", "data_parallel"),
    ("sgd", "table_wise"),
    ("sgd", "data_parallel"),
    ("adam", "table_wise"),
    ("adam", "data_parallel"),
]


@pytest.mark.parametrize(("optimizer", "sharding"), KINDS)
def test_three_steps_of_every_optimizer_are_what_its_paper_says(
    world: World, optimizer: str, sharding: str
) -> None:
    model, combined = sharded(optimizer, sharding)
    reference, expected = Reference(optimizer), tables(model)
    for _ in range(3):
        step(model, combined)
        expected = reference.step(expected)
        assert_same_tables(tables(model), expected)


@pytest.mark.parametrize(
    ("optimizer", "sharding"),
    [*((name, "data_parallel") for name in ("rowwise_adagrad", "adagrad", "sgd")), ("adam", "table_wise")],
)
def test_weight_decay_is_an_l2_penalty_on_all_rows(world: World, optimizer: str, sharding: str) -> None:
    model, combined = sharded(optimizer, sharding, weight_decay=0.1)
    reference, expected = Reference(optimizer, weight_decay=0.1), tables(model)
    for _ in range(3):
        step(model, combined)
        expected = reference.step(expected)
        assert_same_tables(tables(model), expected)


@pytest.mark.parametrize("sharding", ["table_wise", "data_parallel"])
def test_adam_keeps_as_much_of_its_means_as_it_is_told(world: World, sharding: str) -> None:
    model, combined = sharded("adam", sharding, betas=(0.5, 0.75))
    reference, expected = Reference("adam", betas=(0.5, 0.75)), tables(model)
    for _ in range(3):
        step(model, combined)
        expected = reference.step(expected)
        assert_same_tables(tables(model), expected)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_weight_decay_that_a_fused_kernel_would_ignore_is_refused(world: World, optimizer: str) -> None:
    with pytest.raises(ConfigError, match=rf"--optimizer.weight_decay 0.1: a fused {optimizer} has none"):
        sharded(optimizer, weight_decay=0.1)


@pytest.mark.parametrize(("optimizer", "sharding"), KINDS)
def test_a_learning_rate_set_before_a_step_holds_in_that_very_step(
    world: World, optimizer: str, sharding: str
) -> None:
    model, combined = sharded(optimizer, sharding)
    reference, expected = Reference(optimizer), tables(model)
    for factor in (0.1, 1.0, 0.0):  # the first is a warm-up; the last must not move anything
        set_learning_rates(combined, factor)
        step(model, combined)
        expected = reference.step(expected, factor)
        assert_same_tables(tables(model), expected)


def test_dense_layers_learn_at_their_own_rate_with_adam(world: World) -> None:
    model, combined = sharded("rowwise_adagrad", hidden=(8,), dense_learning_rate=0.01)
    set_learning_rates(combined, 0.5)
    last = model.module.query.dense[-1]
    assert last.bias.tolist() == [0.0] * DIM
    step(model, combined)
    # Adam's first step moves every parameter by its learning rate against the gradient's sign, which for the
    # bias of the last layer is that of the summed item vectors.
    direction = initial("item", FIRST_BLOCK)[ITEMS].sum(0).sign()
    torch.testing.assert_close(last.bias.detach(), -0.5 * 0.01 * direction, rtol=1e-4, atol=0)


def test_rows_that_a_step_does_not_visit_stay_bit_for_bit(world: World) -> None:
    model, combined = sharded("rowwise_adagrad")
    before = tables(model)
    step(model, combined)
    after = tables(model)
    assert (after["user"] != before["user"]).any(1).tolist() == [False, True, False, False, True, False]
    assert (after["item"] != before["item"]).any(1).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("sharding", ["table_wise", "column_wise", "data_parallel"])
def test_initial_values_do_not_depend_on_the_plan(world: World, sharding: str) -> None:
    model, _ = sharded("sgd", sharding)
    assert_same_tables(
        tables(model), {name: initial(name, FIRST_BLOCK)[:rows] for name, rows in ROWS.items()}
    )


def test_a_table_is_filled_in_blocks_that_hardly_exceed_it() -> None:
    rows = INITIAL_BLOCK_ROWS + 100
    towers = TwoTowers({"user": rows}, {"item": 3}, DIM, "dot").to_empty(device=torch.device("cpu"))
    asked = []

    def numbered(table: str, block: slice) -> torch.Tensor:
        asked.append((table, block.start, block.stop))
        return torch.arange(block.start, block.stop).unsqueeze(1).expand(-1, DIM).float()

    fill_tables(towers, numbered)
    for name, weights in tables(towers).items():
        assert weights[:, 0].tolist() == list(range(len(weights))), name
    assert sorted(asked) == [
        ("item", 0, 16),
        ("user", 0, INITIAL_BLOCK_ROWS),
        ("user", INITIAL_BLOCK_ROWS, INITIAL_BLOCK_ROWS + 112),  # 100 rows, in sixteens
    ]


def test_blocks_of_a_wide_table_have_fewer_rows() -> None:
    # 2^26 values of 16,384 columns are 4,096 rows.
    blocks = list(initial_blocks(10_000, 16_384))
    assert blocks == [slice(0, 4096), slice(4096, 8192), slice(8192, 10_000)]


def test_normal_values_of_a_row_are_the_same_in_a_longer_block() -> None:
    for dim in (4, 12, 100):
        short, long = (normal_block(3, "user", slice(0, rows), dim, 0.5) for rows in (16, 65_536))
        assert torch.equal(short, long[:16]), dim


def test_normal_values_depend_on_seed_table_and_first_row_alone() -> None:
    block = normal_block(3, "user", slice(0, 1000), 8, 0.5)
    state = torch.random.get_rng_state()
    torch.testing.assert_close(normal_block(3, "user", slice(0, 1000), 8, 0.5), block, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    others = [(4, "user", 0), (3, "item", 0), (3, "user", 1000), (2**31 - 1, "user", 0)]
    for seed, table, first in others:
        assert not torch.equal(normal_block(seed, table, slice(first, first + 1000), 8, 0.5), block)
    # 8,000 draws: the standard error of the mean is 0.0056 and that of the deviation 0.004.
    assert abs(float(block.mean())) < 0.025
    assert float(block.std()) == pytest.approx(0.5, abs=0.02)


def test_the_warm_up_rises_linearly_and_meets_the_schedule_at_its_peak() -> None:
    # 10 steps, of which 4 warm up: fifths of the peak, then the peak, then a line that reaches 0 at step 10.
    factors = [schedule_factor(step, 10, "linear", 0.4) for step in range(11)]
    assert factors == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_the_cosine_schedule_is_at_half_of_the_peak_half_way() -> None:
    assert [schedule_factor(step, 8, "cosine", 0) for step in (0, 4, 8)] == pytest.approx([1, 0.5, 0])
    # A third of the way the cosine of 60 degrees: (1 + 0.5) / 2.
    assert schedule_factor(4, 12, "cosine", 0) == pytest.approx(0.75)


def test_a_constant_schedule_stays_at_the_peak_after_the_warm_up() -> None:
    assert [schedule_factor(step, 4, "constant", 0.5) for step in range(4)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1]
    )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 0.1, 0.33, 1])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_step_moves_something_and_none_exceeds_the_peak(
    schedule: str, warmup: float, steps: int
) -> None:
    factors = [schedule_factor(step, steps, schedule, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
