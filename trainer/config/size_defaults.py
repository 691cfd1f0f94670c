"""Defaults that depend on the size of the data, and fixed ones for what tuning would choose."""

import math
from dataclasses import replace
from typing import TypeVar

from trainer.config.losses import loss_spec
from trainer.config.resolved import ResolvedConfig, resolve
from trainer.config.schema import Config, OptimizerConfig
from trainer.config.sharding_kinds import sharding_kind

CATALOGUE_ITEMS = 20_000
"""Largest catalogue that is scored whole in every step."""
SAMPLES = 8192
DENSE_VALUES = 2**24
"""Most table values for which Adam is the default: its dense kernel updates every row in every step."""
LARGE_INTERACTIONS, FULL_EPOCHS, LEAST_STEPS = 300_000, 30, 320
EVALUATIONS, PATIENCE = 20, 10
RATES: dict[str, tuple[float, dict[str, float]]] = {
    "adam": (0.004, {}),
    "adam_fused": (0.004, {}),
    "rowwise_adagrad": (0.1, {"item": 0.2, "item_bias": 0.01}),
    "adagrad": (0.05, {"item": 0.1, "item_bias": 0.005}),
    "sgd": (0.05, {"item": 0.1, "item_bias": 0.005}),
}
"""Peak learning rate of all tables, and of those tables that differ, by optimizer."""
FIXED_TEMPERATURE = 0.2
FIXED_WEIGHT = 16.0
FIXED_PENALTY = 300.0

Value = TypeVar("Value")


def with_size_defaults(config: Config, users: int, items: int, interactions: int) -> Config:
    """Fill in everything that the size of the data decides.

    Args:
        config: As asked; what it sets stays.
        users: Number of users with training interactions.
        items: Number of items in the catalogue.
        interactions: Number of training interactions.
    """
    rows = users if config.batches.rows == "user" else interactions
    # The root keeps both the steps of an epoch and the rows of a step in proportion, at any size.
    size = min(max(2 ** round(math.log2(4 * math.sqrt(max(rows, 1)))), 16), 8192)
    dim = 256 if interactions >= LARGE_INTERACTIONS else 128
    loss, run = config.loss, config.run
    automatic = "catalogue" if items <= CATALOGUE_ITEMS else "sampled"
    candidates = automatic if loss.candidates == "auto" else loss.candidates
    samples = SAMPLES if candidates == "sampled" else None
    size = _first(config.batches.size, size)
    dim = _first(config.model.dim, dim)
    model = replace(config.model, dim=dim)
    epochs = max(3, round(FULL_EPOCHS * min(1, math.sqrt(1_000_000 / max(interactions, 1)))))
    epochs = _first(run.epochs, max(epochs, -(-LEAST_STEPS // -(-rows // size))))
    every = -(-epochs // EVALUATIONS) if config.data.validation_size else 0
    every = _first(run.evaluate_every, every)
    return replace(
        config,
        batches=replace(config.batches, size=size),
        model=model,
        loss=replace(loss, candidates=candidates, samples=_first(loss.samples, samples)),
        optimizer=_optimizer(config, dim, 2 * (model.hashed_rows or 0) or users + items),
        run=replace(
            run,
            epochs=epochs,
            evaluate_every=every,
            patience=_first(run.patience, PATIENCE if every else 0),
        ),
    )


def with_fixed_values(config: Config) -> ResolvedConfig:
    """Fill in fixed values for what would otherwise be chosen on a validation split."""
    model = config.model
    filled = replace(
        model,
        temperature=_first(model.temperature, FIXED_TEMPERATURE),
        low_rank=_first(model.low_rank, 0),
        low_rank_weight=_first(model.low_rank_weight, FIXED_WEIGHT),
        low_rank_penalty=_first(model.low_rank_penalty, FIXED_PENALTY),
    )
    return resolve(replace(config, model=filled))


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
    small = rows * dim <= DENSE_VALUES and config.batches.rows == "user"
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
