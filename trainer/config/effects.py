"""Which options have an effect under which others: an option that would change nothing is refused.

Every option stands in one of two tables: `ALWAYS`, or `EFFECTS` with the condition under which it does
something. A value that equals the default is never refused, so that what `--print_config` shows can be read
back.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from trainer.config.schema import Config, ModelConfig
from trainer.errors import ConfigError
from trainer.facts.histories import ORDERED, history_spec
from trainer.facts.losses import loss_spec, losses_where

RANKING = losses_where(lambda spec: not spec.pointwise)
"""Losses that score candidates, for error messages."""
RATING = losses_where(lambda spec: spec.needs_values)
"""Losses that fit values, for error messages."""
ADAM = ("adam", "adam_fused")


@dataclass(frozen=True)
class Effect:
    """The condition under which some options do something.

    Attributes:
        keys: The options, by dotted name.
        holds: Whether they have an effect under a configuration.
        needs: What gives them one, for the error message.
    """

    keys: tuple[str, ...]
    holds: Callable[[Config], bool]
    needs: str


def _is_random(config: Config) -> bool:
    """Whether a seed decides which rows a split takes: those of the test or of the validation split."""
    data = config.data
    if data.held_out is not None or data.split in ("given", "none"):
        return data.validation_size > 0 or config.run.choose
    return data.split in ("random", "per_user")


def _uses_values(config: Config) -> bool:
    return config.data.min_value is not None or loss_spec(config.loss.name).needs_values


def _scores_candidates(config: Config) -> bool:
    return not loss_spec(config.loss.name).pointwise


def _draws_candidates(config: Config) -> bool:
    return _scores_candidates(config) and config.loss.candidates in ("auto", "sampled")


def _has_dense_parameters(config: Config) -> bool:
    model = config.model
    # Whether attributes are numbers or vectors, which have a layer each, is known once the data are.
    may_have_layers = bool(model.user_features or model.item_features)
    return bool(model.hidden) or model.learn_temperature or may_have_layers or is_ordered(config)


def _combines_features(config: Config) -> bool:
    model = config.model
    return len(query_features(model)) > 1 or bool(model.item_features)


def is_ordered(config: Config) -> bool:
    """Return whether a configuration asks for ordered histories, by their kind or by that of the rows."""
    return config.batches.rows == "next" or history_spec(config.model.history).ordered


def query_features(model: ModelConfig) -> list[str]:
    """Return the names of the features of the query tower."""
    spec = history_spec(model.history)
    named = {
        "user_id": not spec.ordered if model.user_id is None else model.user_id,
        "history": spec.bag or spec.ordered,
    }
    return [*(name for name, present in named.items() if present), *model.user_features]


def expects_bias(model: ModelConfig) -> bool:
    """Return whether items have an expected bias: where some are trained to be known by attributes alone."""
    return model.item_bias and model.item_id_dropout > 0 and bool(model.item_features)


def validates(config: Config) -> bool:
    """Return whether a training evaluates a validation split."""
    every = config.run.evaluate_every
    return every > 0 if every is not None else config.data.validation_size > 0


def _saves_on_the_way(config: Config) -> bool:
    return config.run.save_every > 0 or validates(config)


EFFECTS = (
    Effect(
        ("data.root", "data.source"),
        lambda config: config.data.name not in ("files", "synthetic"),
        "a MovieLens release in --data.name",
    ),
    Effect(
        (
            *("data.format", "data.interactions", "data.held_out", "data.users", "data.items"),
            *("data.encoding", "data.separator", "data.columns"),
            *("data.user_column", "data.item_column", "data.weight_column"),
            *("data.list_separator", "data.order"),
        ),
        lambda config: config.data.name == "files",
        "--data.name files",
    ),
    Effect(("data.user_columns",), lambda config: config.data.users is not None, "--data.users"),
    Effect(("data.item_columns",), lambda config: config.data.items is not None, "--data.items"),
    Effect(
        ("data.value_column",),
        lambda config: config.data.name == "files" and _uses_values(config),
        f"--data.name files with --data.min_value, or with --loss.name {RATING}",
    ),
    Effect(
        ("data.timestamp_column",),
        lambda config: config.data.name == "files" and config.data.order == "time",
        "--data.name files, and --data.order time",
    ),
    Effect(
        ("data.negatives",),
        lambda config: config.data.min_value is not None or config.data.impressions is not None,
        "--data.min_value or --data.impressions",
    ),
    Effect(
        ("data.impressions",),
        lambda config: config.data.name == "files" and config.data.negatives == "use",
        "--data.name files with --data.negatives use",
    ),
    Effect(
        ("data.user_vectors", "data.item_vectors", "data.attribute_kinds"),
        lambda config: config.data.name != "synthetic",
        "data of users and items that exist, in --data.name",
    ),
    Effect(
        ("data.bad_rows",), lambda config: config.data.name != "synthetic", "data that are read from files"
    ),
    Effect(
        ("data.split",),
        lambda config: config.data.held_out is None or config.data.split in ("given", "none"),
        "data without --data.held_out, which is the test split",
    ),
    Effect(
        ("data.test_size",),
        lambda config: (
            config.data.held_out is None and config.data.split in ("random", "temporal", "per_user")
        ),
        "a split by share: --data.split random, temporal or per_user, without --data.held_out",
    ),
    Effect(
        ("data.repeats",),
        lambda config: config.data.held_out is None and config.data.split in ("leave_last_out", "temporal"),
        "a split by time: --data.split temporal or leave_last_out, without --data.held_out",
    ),
    Effect(("data.split_seed",), _is_random, "a random split: --data.split random or per_user"),
    Effect(
        (
            *("data.synthetic_users", "data.synthetic_items", "data.synthetic_interactions"),
            "data.synthetic_seed",
        ),
        lambda config: config.data.name == "synthetic",
        "--data.name synthetic",
    ),
    Effect(
        ("model.temperature",),
        lambda config: config.model.similarity == "cosine",
        "--model.similarity cosine, as dot products have no temperature",
    ),
    Effect(("model.popularity_prior",), lambda config: config.model.item_bias, "--model.item_bias true"),
    Effect(
        ("model.low_rank_weight",),
        lambda config: config.model.low_rank != 0,
        "closed-form dims: --model.low_rank 128",
    ),
    Effect(
        ("model.low_rank_penalty",),
        lambda config: config.model.low_rank != 0 or config.model.start == "low_rank",
        "a closed form: --model.low_rank 128 or --model.start low_rank",
    ),
    Effect(
        ("model.history_dropout",),
        lambda config: history_spec(config.model.history).bag,
        "--model.history bag",
    ),
    Effect(
        ("model.history_length", "model.history_table", "model.history_decay", "model.vector_dropout"),
        lambda config: config.model.history is None or history_spec(config.model.history).ordered,
        f"--model.history {ORDERED}",
    ),
    Effect(
        ("model.new_item_boost",),
        lambda config: expects_bias(config.model),
        "items known by attributes alone: --model.item_id_dropout 0.1, --model.item_features and "
        "--model.item_bias true",
    ),
    Effect(
        ("model.combine",),
        _combines_features,
        "more than one feature in a tower, for instance --model.history bag or --model.item_features",
    ),
    Effect(
        ("loss.candidates",),
        _scores_candidates,
        f"--loss.name {RANKING}, which score candidates",
    ),
    Effect(
        ("loss.samples", "loss.popularity_power"),
        _draws_candidates,
        f"--loss.candidates sampled and --loss.name {RANKING}",
    ),
    Effect(
        ("loss.logq",),
        lambda config: _scores_candidates(config) and config.loss.candidates != "catalogue",
        f"--loss.candidates in_batch or sampled and --loss.name {RANKING}",
    ),
    Effect(("loss.mask_known",), _scores_candidates, f"--loss.name {RANKING}"),
    Effect(
        ("loss.user_weight_power",),
        lambda config: config.batches.rows in (None, "user") and not is_ordered(config),
        "--batches.rows user",
    ),
    Effect(
        ("loss.positive_value",),
        lambda config: loss_spec(config.loss.name).binary_values,
        f"--loss.name {losses_where(lambda spec: spec.binary_values)}",
    ),
    Effect(
        ("optimizer.betas",), lambda config: config.optimizer.name in ("auto", *ADAM), "--optimizer.name adam"
    ),
    Effect(
        ("optimizer.dense_learning_rate", "optimizer.clip_gradients"),
        _has_dense_parameters,
        "dense layers or a learned temperature: --model.hidden, --model.learn_temperature true, numbers and "
        f"vectors in --model.item_features, or --model.history {ORDERED}",
    ),
    Effect(
        ("sharding.kind", "sharding.tables", "sharding.partitions", "sharding.ranks", "sharding.uvm_caching"),
        lambda config: config.sharding.plan is None,
        "a training without --sharding.plan, which is followed exactly",
    ),
    Effect(("run.keep_last",), lambda config: config.run.save_every > 0, "--run.save_every"),
    Effect(
        ("run.save_async", "run.on_save_failure"),
        _saves_on_the_way,
        "checkpoints on the way: --run.save_every, or a validation split",
    ),
    Effect(
        ("run.metric",),
        validates,
        "evaluations to compare, for instance --run.evaluate_every 1 --data.validation_size 0.1",
    ),
)
ALWAYS = frozenset(
    [
        *("data.name", "data.share", "data.cache", "data.min_value", "data.k_core", "data.validation_size"),
        *("batches.rows", "batches.size", "batches.ahead"),
        *("model.dim", "model.table_dtype", "model.precision", "model.similarity", "model.learn_temperature"),
        *("model.item_bias", "model.init_std", "model.start", "model.low_rank", "model.user_id"),
        *("model.history", "model.item_id_dropout", "model.user_features", "model.item_features"),
        *("model.hidden", "model.hashed_rows", "loss.name"),
        *("optimizer.name", "optimizer.learning_rate", "optimizer.table_learning_rates"),
        *("optimizer.weight_decay", "optimizer.schedule", "optimizer.warmup"),
        *("sharding.communication", "sharding.lookup", "sharding.exchange_ahead", "sharding.plan"),
        *("evaluation.split", "evaluation.seen", "evaluation.k", "evaluation.baselines"),
        *("evaluation.chunk", "evaluation.sharded"),
        *("run.dir", "run.seed", "run.epochs", "run.log_every", "run.evaluate_every", "run.patience"),
        *("run.save_every", "run.choose", "run.keep_best", "run.origin", "run.removed", "run.tensorboard"),
        "run.trackers",
        *("device", "deterministic", "backend", "timeout"),
    ]
)
"""Options that have an effect in any training, or that `trainer.config.validation` refuses otherwise."""
DECIDED_BY_SIZE = ("loss.samples", "loss.popularity_power", "loss.logq", "optimizer.betas")
"""Options whose effect depends on what `auto` turns out to be."""


def without_effect(config: Config) -> Iterator[tuple[str, str]]:
    """Yield each key that differs from its default and changes nothing, with what would give it an effect."""
    defaults = Config()
    for effect in EFFECTS:
        if not effect.holds(config):
            for key in effect.keys:
                if _value(config, key) != _value(defaults, key):
                    yield key, effect.needs


def check_effects(config: Config, keys: Collection[str]) -> None:
    """Refuse options that would change nothing.

    Args:
        config: What the options result in.
        keys: Options to look at, by dotted name: those that were given.

    Raises:
        ConfigError: An option has no effect; the message names it, its value and what would give it one.
    """
    for key, needs in without_effect(config):
        if key in keys:
            value = _value(config, key)
            shown = str(value).lower() if isinstance(value, bool) else value
            raise ConfigError(f"--{key} {shown}: has no effect here. It needs {needs}; or leave it out")


def check_decided_effects(asked: Config, sized: Config) -> None:
    """Refuse options that turn out to change nothing once the size of the data has decided what `auto` means.

    Args:
        asked: The configuration as it was given.
        sized: The same after `trainer.config.size_defaults.with_size_defaults`.

    Raises:
        ConfigError: As `check_effects`.
    """
    decided = replace(
        asked,
        loss=replace(asked.loss, candidates=sized.loss.candidates),
        optimizer=replace(asked.optimizer, name=sized.optimizer.name),
    )
    check_effects(decided, DECIDED_BY_SIZE)


def _value(config: Config, key: str) -> object:
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
