"""A configuration without gaps: what a training follows, once the data have been seen.

`Config` is what was asked, and a null in it is decided later; `ResolvedConfig` is the same with every such
key filled in, and its types say so.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

from trainer.config.schema import BatchConfig, Config, LossConfig, ModelConfig, OptimizerConfig, RunConfig
from trainer.errors import ConfigError
from trainer.facts.histories import HistoryName

OPEN = (None, "auto")
"""Values of keys that are still to be decided."""


@dataclass(frozen=True, kw_only=True)
class ResolvedBatchConfig(BatchConfig):
    """Batches of a known kind and size."""

    rows: Literal["user", "interaction", "next"]
    size: int


@dataclass(frozen=True, kw_only=True)
class ResolvedModelConfig(ModelConfig):
    """Towers of known widths; without closed-form dims, `low_rank` is 0."""

    dim: int
    temperature: float
    popularity_prior: float
    user_id: bool
    history: HistoryName
    low_rank: int
    low_rank_weight: float
    low_rank_penalty: float


@dataclass(frozen=True, kw_only=True)
class ResolvedLossConfig(LossConfig):
    """A loss over known candidates."""

    candidates: Literal["catalogue", "in_batch", "sampled"]


@dataclass(frozen=True, kw_only=True)
class ResolvedOptimizerConfig(OptimizerConfig):
    """An optimizer with its learning rate."""

    name: Literal["rowwise_adagrad", "adagrad", "sgd", "adam", "adam_fused"]
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class ResolvedRunConfig(RunConfig):
    """A training of known length; 0 stands for no evaluations, and for no patience."""

    epochs: int
    evaluate_every: int
    patience: int


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(Config):
    """Everything that decides a training run, without gaps."""

    run: ResolvedRunConfig
    batches: ResolvedBatchConfig
    model: ResolvedModelConfig
    loss: ResolvedLossConfig
    optimizer: ResolvedOptimizerConfig


SECTIONS: dict[str, type] = {
    "run": ResolvedRunConfig,
    "batches": ResolvedBatchConfig,
    "model": ResolvedModelConfig,
    "loss": ResolvedLossConfig,
    "optimizer": ResolvedOptimizerConfig,
}


def resolve(config: Config) -> ResolvedConfig:
    """Return a configuration all of whose gaps have been filled as one whose types say so.

    Raises:
        ConfigError: A key is still open; the message names it.
    """
    values: dict[str, Any] = {entry.name: getattr(config, entry.name) for entry in fields(Config)}
    for section, kind in SECTIONS.items():
        given = {entry.name: getattr(values[section], entry.name) for entry in fields(kind)}
        for name in kind.__annotations__:
            if given[name] in OPEN:
                raise ConfigError(
                    f"--{section}.{name} {'null' if given[name] is None else given[name]}: "
                    "a value is needed here, and nothing decides it any more. Give one"
                )
        values[section] = kind(**given)
    return ResolvedConfig(**values)


def is_open(config: Config) -> bool:
    """Return whether a configuration has a key that is still to be decided."""
    try:
        resolve(config)
    except ConfigError:
        return True
    return False
