"""Defaults that depend on the size of the data, and fixed ones for what tuning would choose."""

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast

from trainer.config.resolved import ResolvedConfig, resolve
from trainer.config.schema import Config, ModelConfig, OptimizerConfig
from trainer.config.sharing import with_shared_tables
from trainer.facts.histories import HistoryName, history_spec
from trainer.facts.losses import loss_spec
from trainer.facts.sharding_kinds import sharding_kind

CATALOGUE_ITEMS = 20_000
"""Largest catalogue that is scored whole in every step."""
SAMPLES = 8192
DENSE_VALUES = 2**24
"""Most table values for which Adam is the default: its dense kernel updates every row in every step."""
LARGE_INTERACTIONS, FULL_EPOCHS, LEAST_STEPS = 300_000, 30, 320
ORDERED_SAMPLES, ORDERED_EPOCHS, ORDERED_USER_ITEMS = 1024, 16, 32
EVALUATIONS, PATIENCE = 20, 10
RATES: dict[str, tuple[float, dict[str, float]]] = {
    "adam": (0.004, {}),
    "adam_fused": (0.004, {}),
    "rowwise_adagrad": (0.1, {"item": 0.2, "item_bias": 0.01}),
    "adagrad": (0.05, {"item": 0.1, "item_bias": 0.005}),
    "sgd": (0.05, {"item": 0.1, "item_bias": 0.005}),
}
"""Peak learning rate of all tables, and of those tables that differ, by optimizer."""
FIXED_TEMPERATURE, FIXED_ORDERED_TEMPERATURE = 0.2, 0.15
FIXED_WEIGHT = 16.0
FIXED_PENALTY = 300.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class _Recipe:
    """What the size of the data decides, where nothing was asked for.

    Attributes:
        size: Rows of a step, or stretches.
        dim: Width of the towers.
        candidates: Kind of the candidate sets.
        samples: Draws of `sampled`.
        epochs: Length of the training.
        user_id: Whether users have rows of a table.
    """

    size: int
    dim: int
    candidates: Literal["catalogue", "sampled"]
    samples: int
    epochs: int
    user_id: bool = True


def with_size_defaults(config: Config, users: int, items: int, interactions: int) -> Config:
    """Fill in everything that the size of the data decides.

    Args:
        config: As asked; what it sets stays.
        users: Number of users with training interactions.
        items: Number of items in the catalogue.
        interactions: Number of training interactions.
    """
    config = with_shared_tables(with_history(config))
    recipe = (_ordered if config.batches.rows == "next" else _order_blind)(config, users, items, interactions)
    loss, run = config.loss, config.run
    candidates = recipe.candidates if loss.candidates == "auto" else loss.candidates
    samples = recipe.samples if candidates == "sampled" else None
    dim, epochs = _first(config.model.dim, recipe.dim), _first(run.epochs, recipe.epochs)
    every = -(-epochs // EVALUATIONS) if config.data.validation_size else 0
    every = _first(run.evaluate_every, every)
    return replace(
        config,
        batches=replace(config.batches, size=_first(config.batches.size, recipe.size)),
        model=replace(config.model, dim=dim, user_id=_first(config.model.user_id, recipe.user_id)),
        loss=replace(loss, candidates=candidates, samples=_first(loss.samples, samples)),
        optimizer=_optimizer(config, dim, 2 * (config.model.hashed_rows or 0) or users + items),
        run=replace(
            run,
            epochs=epochs,
            evaluate_every=every,
            patience=_first(run.patience, PATIENCE if every else 0),
        ),
    )


def with_history(config: Config, history: HistoryName | None = None) -> Config:
    """Fill in the kind of history and what follows from it alone.

    Args:
        config: As asked; what it sets stays.
        history: Kind of history where it is open; None: what the kind of rows asks for.
    """
    model, rows = config.model, config.batches.rows
    if not history_is_open(config) or history is None:
        history = cast(HistoryName, model.history or ("recency" if rows == "next" else "none"))
    ordered = history_spec(history).ordered
    user_id = model.user_id if ordered else _first(model.user_id, True)
    prior = popularity_prior(replace(model, history=history))
    model = replace(model, history=history, user_id=user_id, popularity_prior=prior)
    rows = rows or ("next" if ordered else "user")
    return replace(config, batches=replace(config.batches, rows=rows), model=model)


def _order_blind(config: Config, users: int, items: int, interactions: int) -> _Recipe:
    rows = users if config.batches.rows == "user" else interactions
    # The root keeps both the steps of an epoch and the rows of a step in proportion, at any size.
    size = min(max(2 ** round(math.log2(4 * math.sqrt(max(rows, 1)))), 16), 8192)
    epochs = max(3, round(FULL_EPOCHS * min(1, math.sqrt(1_000_000 / max(interactions, 1)))))
    steps = -(-rows // _first(config.batches.size, size))
    return _Recipe(
        size=size,
        dim=256 if interactions >= LARGE_INTERACTIONS else 128,
        candidates="catalogue" if items <= CATALOGUE_ITEMS else "sampled",
        samples=SAMPLES,
        epochs=max(epochs, -(-LEAST_STEPS // steps)),
    )


def _ordered(config: Config, users: int, items: int, interactions: int) -> _Recipe:
    stretches = users + interactions // config.model.history_length
    # Below the root of their number, since each has many rows; an epoch needs some dozens of steps.
    size = min(max(2 ** math.floor(math.log2(math.sqrt(max(stretches, 1)))), 16), 512)
    return _Recipe(
        size=size,
        dim=128,
        candidates="sampled",
        samples=ORDERED_SAMPLES,
        epochs=ORDERED_EPOCHS,
        # A vector that few positions teach is learned by heart.
        user_id=interactions >= ORDERED_USER_ITEMS * users,
    )


def with_fixed_values(config: Config) -> ResolvedConfig:
    """Fill in fixed values for what would otherwise be chosen on a validation split."""
    config = with_history(config)
    model = config.model
    filled = replace(
        model,
        temperature=_first(model.temperature, fixed_temperature(config)),
        user_id=_first(model.user_id, not history_spec(model.history).ordered),
        low_rank=_first(model.low_rank, 0),
        low_rank_weight=_first(model.low_rank_weight, FIXED_WEIGHT),
        low_rank_penalty=_first(model.low_rank_penalty, FIXED_PENALTY),
    )
    return resolve(replace(config, model=filled))


def popularity_prior(model: ModelConfig) -> float:
    """Return the multiple of log popularity with which biases begin."""
    return _first(model.popularity_prior, 0.5 if history_spec(model.history).ordered else 0.85)


def fixed_temperature(config: Config) -> float:
    """Return the temperature where none is chosen, and with which choosing begins."""
    ordered = history_spec(config.model.history).ordered
    return FIXED_ORDERED_TEMPERATURE if ordered else FIXED_TEMPERATURE


def history_is_open(config: Config) -> bool:
    """Return whether the kind of history is still to be chosen."""
    return config.model.history is None and config.batches.rows is None


def temperature_is_open(config: Config) -> bool:
    """Return whether the temperature is still to be chosen."""
    return config.model.temperature is None and config.model.similarity == "cosine"


def closed_form_is_open(config: Config) -> bool:
    """Return whether a training may choose to add closed-form dims, which have tables of their own."""
    return config.run.choose and loss_spec(config.loss.name).tunable and low_rank_is_open(config)


def low_rank_is_open(config: Config) -> bool:
    """Return whether width, weight or penalty of closed-form dims is still to be chosen."""
    model = config.model
    return model.low_rank != 0 and None in (model.low_rank, model.low_rank_weight, model.low_rank_penalty)


def _optimizer(config: Config, dim: int, rows: int) -> OptimizerConfig:
    given = config.optimizer
    # Adam's rate was found for steps over users: of interactions there are many more steps in an epoch.
    small = rows * dim <= DENSE_VALUES and config.batches.rows != "interaction"
    # Adam has a dense kernel, which trains float32 alone.
    kinds = {config.sharding.kind, *config.sharding.tables.values()} - {"auto"}
    dense = all("dense" in sharding_kind(kind).kernels for kind in kinds)
    dense = dense and config.model.table_dtype == "float32"
    automatic = "adam" if small and dense else "rowwise_adagrad"
    name = automatic if given.name == "auto" else given.name
    rate, tables = RATES[name]
    if given.learning_rate is not None:
        tables = {}
    return replace(
        given,
        name=name,
        learning_rate=_first(given.learning_rate, rate),
        table_learning_rates=tables | given.table_learning_rates,
    )


def _first(given: Value | None, otherwise: Value) -> Value:
    return otherwise if given is None else given
