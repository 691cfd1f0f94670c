"""The gradient of a whole step on ordered histories, against plain loops in float64."""

import pytest
import torch
from torch.nn import functional

from tests import worlds
from tests.distributed.small_training import shards, whole
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import join_world
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.step import make_loss, train_step

LENGTH, TEMPERATURE, RATE, HEADS = 3, 0.5, 1.0, 4
HOURS = (1, 5, 30)
HISTORIES = {
    1: [11, 12, 13, 14, 15, 16, 17, 11 + 20],
    2: [15, 12, 18, 11, 40],
    3: [19, 13, 41],
    4: [18, 42],
    5: [17, 16, 15, 14, 13, 12, 11, 19, 18, 43],
}
OPTIONS = (
    *("--model.dim", "8", "--model.history_length", str(LENGTH), "--model.temperature", str(TEMPERATURE)),
    *("--model.vector_dropout", "0", "--model.init_std", "0.3", "--loss.candidates", "catalogue"),
    *("--optimizer.name", "sgd", "--optimizer.learning_rate", str(RATE), "--batches.size", "1000"),
    *("--optimizer.table_learning_rates", "{}"),
)
CASES = {
    "tied": ("--model.history_table", "tied"),
    "own": ("--model.history_table", "own"),
    "both": (),
    "both decays, users": ("--model.history_decay", "both", "--model.user_id", "true"),
    "by time, nothing masked": ("--model.history_decay", "time", "--loss.mask_known", "false"),
    "transformer": ("--model.history", "transformer", "--model.history_decay", "both"),
    "transformer, tied, dot": (
        *("--model.history", "transformer", "--model.history_table", "tied"),
        *("--model.similarity", "dot"),
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return worlds.ordered_dataset(tmp_path_factory.mktemp("world"), HISTORIES, hours=HOURS)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_step_moves_every_parameter_by_the_gradient_of_the_loss_that_loops_compute(
    options: tuple[str, ...], data: Dataset
) -> None:
    given = [*OPTIONS, *(() if "--model.history" in options else ("--model.history", "recency")), *options]
    if "dot" in options:
        place = given.index("--model.temperature")
        del given[place : place + 2]
    config = worlds.configured(data, *given)
    with join_world("cpu") as world:
        parts = assemble(config, data, world)
        if parts.towers.encoder.attention is not None:  # otherwise it starts at nothing
            torch.nn.init.normal_(parts.towers.encoder.attention.output.weight, std=0.3)
            torch.nn.init.normal_(parts.towers.encoder.attention.by_distance)
        before = whole([shards(parts.model)])
        batches = make_batches(config, data, parts)
        assert batches.steps_per_epoch == 1
        batch = batches.make(0)
        found = train_step(parts.model, parts.optimizer, batch, make_loss(config.loss, world), world)
        after = whole([shards(parts.model)])
        dense = {
            f"learned.encoder.{name}": parameter.grad
            for name, parameter in parts.towers.encoder.named_parameters()
        }
    weights = {key: value.double().requires_grad_() for key, value in before.items()}
    unit, masks = config.model.similarity == "cosine", config.loss.mask_known
    adds = config.model.history_table == "both"
    losses = losses_by_loops(weights, data, unit=unit, masks=masks, adds=adds)
    assert len(losses) == batch.rows == 7 + 4 + 2 + 1 + 9
    assert float(found) == pytest.approx(float(sum(losses)), rel=1e-5)
    (sum(losses) / len(losses)).backward()
    for key, value in weights.items():
        if "log_temperature" in key:
            continue
        moved = dense[key] if key in dense else (before[key] - after[key]) / RATE
        expected = torch.zeros_like(value) if value.grad is None else value.grad
        torch.testing.assert_close(
            moved.double(), expected, rtol=1e-3, atol=2e-6, msg=lambda m, key=key: key + m
        )
        assert expected.abs().max() > 1e-4, f"{key} has no gradient to compare"


def losses_by_loops(
    weights: dict[str, torch.Tensor], data: Dataset, *, unit: bool, masks: bool, adds: bool
) -> list[torch.Tensor]:
    """Loss of every position of every user, in nats."""

    def table(name: str) -> torch.Tensor | None:
        return next((value for key, value in weights.items() if f".{name}.weight" in key), None)

    item, bias, context, users = (table(name) for name in ("item", "item_bias", "item_context", "user"))
    assert item is not None
    assert bias is not None
    rows = {raw: row for row, raw in enumerate(data.item_ids.to_pylist())}
    trained = {raw for items in HISTORIES.values() for raw in items[:-1]}
    losses = []
    for user_row, user in enumerate(data.user_ids.to_pylist()):
        items, times = HISTORIES[user][:-1], [0]
        for place in range(len(items)):
            times.append(times[-1] + HOURS[place % len(HOURS)])
        for place, target in enumerate(items):
            earlier = range(max(place - LENGTH, 0), place)
            state = state_by_loops(
                weights,
                [vector_of(rows[items[each]], item, context, adds) for each in earlier],
                [place - each for each in earlier],
                [times[place - 1] - times[each] for each in earlier],
            )
            query = state if users is None else state + users[user_row]
            if unit and (place or users is not None):
                query = query / query.norm()
            scores = {}
            for raw in trained:
                vector = item[rows[raw]]
                vector = vector / vector.norm() / TEMPERATURE if unit else vector
                scores[raw] = query @ vector + bias[rows[raw]].mean()
            negatives = trained - set(items if masks else [target])
            total = sum(scores[raw].exp() for raw in negatives) + scores[target].exp()
            losses.append(total.log() - scores[target])
    return losses


def vector_of(row: int, item: torch.Tensor, context: torch.Tensor | None, adds: bool) -> torch.Tensor:
    """What an item adds to histories; with a table of their own beside the item's, their sum."""
    if context is None:
        return item[row]
    return context[row] + item[row] if adds else context[row]


def state_by_loops(
    weights: dict[str, torch.Tensor],
    vectors: list[torch.Tensor],
    distances: list[int],
    hours: list[int],
) -> torch.Tensor:
    """The decaying sum of the vectors of earlier items, and attention to them where there is one."""
    encoder = {key.partition("encoder.")[2]: value for key, value in weights.items() if "encoder." in key}
    state = torch.zeros(8, dtype=torch.float64)
    for vector, distance, hour in zip(vectors, distances, hours, strict=True):
        weight = torch.ones((), dtype=torch.float64)
        if "log_decay" in encoder:
            weight = weight * torch.exp(-encoder["log_decay"].exp() * (distance - 1))
        if "log_time_decay" in encoder:
            weight = weight * (1.0 + hour) ** -encoder["log_time_decay"].exp()
        state = state + weight * vector
    if "attention.output.weight" not in encoder or not vectors:
        return state
    part = {key.removeprefix("attention."): value for key, value in encoder.items() if "attention" in key}
    query = part["query.weight"] @ functional.layer_norm(
        state, (8,), part["norms.0.weight"], part["norms.0.bias"]
    )
    heads = []
    for head in range(HEADS):
        own = slice(head * 8 // HEADS, (head + 1) * 8 // HEADS)
        scores = [
            query[own]
            @ (part["key.weight"] @ functional.layer_norm(vector, (8,), part["norms.1.weight"]))[own]
            / (8 / HEADS) ** 0.5
            + part["by_distance"][head, distance]
            for vector, distance in zip(vectors, distances, strict=True)
        ]
        shares = torch.stack(scores).softmax(0)
        heads.append(
            sum(share * (part["value.weight"] @ v)[own] for share, v in zip(shares, vectors, strict=True))
        )
    return state + part["output.weight"] @ torch.cat(heads)
