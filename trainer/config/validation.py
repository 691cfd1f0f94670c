"""The rules for values and combinations of options: each with its key and its error message."""

import codecs
import math
from collections.abc import Iterator
from typing import TypeAlias, get_args, get_type_hints

from trainer.config.effects import query_features, validates
from trainer.config.schema import ATTRIBUTE_KINDS, Config, ShardingConfig
from trainer.config.sharing import rules_of_sharing
from trainer.facts.baselines import BASELINES
from trainer.facts.histories import ORDERED, history_spec
from trainer.facts.losses import loss_spec, losses_where

Rule: TypeAlias = tuple[str, str, bool]
"""A key, what it needs, and whether the configuration satisfies that."""
SEPARATORS = {
    "comma": ",",
    "tab": "\t",
    "semicolon": ";",
    "pipe": "|",
    "space": " ",
    "colons": "::",
    "ctrl-a": "\x01",
}
"""Separators of text files by name; `ctrl-a` is Hive's. Of those that fit a file, the first is taken."""
WIDEST = 16_384
"""Most columns of a table with which FBGEMM's CPU kernels are known to train; at 32,764 they crash."""


def rules(config: Config) -> Iterator[Rule]:
    """Yield all rules, those for single values first."""
    yield from _of_sharding(config)
    for section in (_of_model, _of_run, _of_loss, _of_evaluation, _of_optimizer, _of_data, _of_combinations):
        yield from section(config)
    yield from rules_of_sharing(config)


def _of_model(config: Config) -> Iterator[Rule]:
    model = config.model
    yield (
        "model.dim",
        f"a multiple of 4 from 4 to {WIDEST:,} is needed, as FBGEMM takes no other",
        model.dim is None or (0 < model.dim <= WIDEST and model.dim % 4 == 0),
    )
    yield "model.temperature", "a number above 0 is needed", _above_zero(model.temperature)
    yield "model.init_std", "a number above 0 is needed", _above_zero(model.init_std)
    yield "model.low_rank_penalty", "a number above 0 is needed", _above_zero(model.low_rank_penalty)
    yield (
        "model.low_rank",
        f"0 or a multiple of 4 from 4 to {WIDEST:,} is needed, as FBGEMM takes no other",
        model.low_rank is None or (0 <= model.low_rank <= WIDEST and model.low_rank % 4 == 0),
    )
    yield (
        "model.user_id",
        "the query tower needs --model.user_id true, --model.history bag or --model.user_features",
        bool(query_features(model)),
    )
    yield "model.history_dropout", "a share between 0 and 1 is needed", 0 < model.history_dropout < 1
    yield "model.item_id_dropout", "a share from 0 to below 1 is needed", 0 <= model.item_id_dropout < 1
    yield "model.history_length", "a whole number from 1 up is needed", model.history_length > 0
    yield "model.vector_dropout", "a share from 0 to below 1 is needed", 0 <= model.vector_dropout < 1
    users, items = len(query_features(model)), 1 + len(model.item_features)
    shared = 4 * math.lcm(users, items)
    yield (
        "model.dim",
        f"a multiple of {shared} is needed with --model.combine concat, which shares it among {users} "
        f"features of users and {items} of items, a multiple of 4 for each",
        model.combine == "sum" or (model.dim or 128) % shared == 0,
    )
    hashed = 2 if model.hashed_rows is None else model.hashed_rows
    yield "model.hashed_rows", "a whole number from 2 to 2147483646 is needed", 2 <= hashed < 2**31 - 1
    yield "model.hashed_rows", "needs --model.start random", not model.hashed_rows or model.start == "random"
    yield "model.start", "needs --model.combine sum", model.start == "random" or model.combine == "sum"
    yield "model.hidden", "widths from 1 up are needed", all(width > 0 for width in model.hidden)


def _of_run(config: Config) -> Iterator[Rule]:
    run = config.run
    yield "batches.size", "a whole number from 1 up is needed", _above_zero(config.batches.size)
    yield "batches.ahead", "a whole number from 0 up is needed", (config.batches.ahead or 0) >= 0
    yield "run.epochs", "a whole number from 1 up is needed", _above_zero(run.epochs)
    yield "run.log_every", "a whole number from 0 up is needed", run.log_every >= 0
    yield "run.evaluate_every", "a whole number from 0 up is needed", (run.evaluate_every or 0) >= 0
    yield "run.patience", "a whole number from 0 up is needed", (run.patience or 0) >= 0
    yield (
        "run.patience",
        "needs evaluations to count, for instance --run.evaluate_every 1 --data.validation_size 0.1",
        not run.patience or validates(config),
    )
    yield "run.save_every", "a whole number from 0 up is needed", run.save_every >= 0
    yield "run.keep_last", "a whole number from 1 up is needed", run.keep_last > 0
    yield "run.keep_best", "a whole number from 0 up is needed", run.keep_best >= 0
    yield (
        "run.keep_best",
        "needs evaluations to compare, for instance --run.evaluate_every 1 --data.validation_size 0.1",
        not run.keep_best or validates(config),
    )
    yield "timeout", "seconds above 0 are needed", config.timeout > 0
    yield "run.removed", "needs --from RUN", run.removed == "drop" or run.origin is not None
    yield "run.seed", "a whole number from 0 to 2147483647 is needed", 0 <= run.seed < 2**31


def _of_loss(config: Config) -> Iterator[Rule]:
    loss = config.loss
    yield "loss.samples", "a whole number from 1 up is needed", _above_zero(loss.samples)
    yield "loss.popularity_power", "a number from 0 to 1 is needed", 0 <= loss.popularity_power <= 1


def _of_evaluation(config: Config) -> Iterator[Rule]:
    evaluation = config.evaluation
    yield (
        "evaluation.k",
        "whole numbers from 1 up are needed",
        bool(evaluation.k) and min(evaluation.k) > 0,
    )
    yield (
        "evaluation.baselines",
        f"names out of {', '.join(BASELINES)} are needed",
        set(evaluation.baselines) <= set(BASELINES),
    )
    yield "evaluation.chunk", "a whole number from 1 up is needed", evaluation.chunk > 0


def _of_optimizer(config: Config) -> Iterator[Rule]:
    optimizer = config.optimizer
    yield "optimizer.learning_rate", "a number above 0 is needed", _above_zero(optimizer.learning_rate)
    yield (
        "optimizer.dense_learning_rate",
        "a number above 0 is needed",
        optimizer.dense_learning_rate > 0,
    )
    yield (
        "optimizer.table_learning_rates",
        "numbers from 0 up are needed",
        all(rate >= 0 for rate in optimizer.table_learning_rates.values()),
    )
    yield (
        "optimizer.betas",
        "two numbers from 0 to below 1 are needed",
        len(optimizer.betas) == 2 and all(0 <= beta < 1 for beta in optimizer.betas),
    )
    yield "optimizer.clip_gradients", "a number above 0 is needed", _above_zero(optimizer.clip_gradients)
    yield "optimizer.warmup", "a share from 0 to 1 is needed", 0 <= optimizer.warmup <= 1
    yield "optimizer.weight_decay", "a number from 0 up is needed", optimizer.weight_decay >= 0


def _of_data(config: Config) -> Iterator[Rule]:
    data = config.data
    yield "data.test_size", "a share between 0 and 1 is needed", 0 < data.test_size < 1
    yield "data.validation_size", "a share from 0 to below 1 is needed", 0 <= data.validation_size < 1
    yield (
        "data.validation_size",
        "--data.split none trains on every row. Leave it out or, where it comes from a configuration, add "
        "--data.validation_size 0 --run.evaluate_every 0 --run.patience 0 --run.keep_best 0",
        data.split != "none" or not data.validation_size,
    )
    yield (
        "evaluation.split",
        "--data.split none trains on every row and measures nothing. Leave one of the two out",
        data.split != "none" or config.evaluation.split == "test",
    )
    yield "data.split_seed", "a whole number from 0 to 4294967295 is needed", 0 <= data.split_seed < 2**32
    yield "data.k_core", "a whole number from 0 up is needed", data.k_core >= 0
    yield (
        "data.encoding",
        "the name of a Python text encoding is needed, such as utf-8, cp1252 or utf-16",
        _is_text_encoding(data.encoding),
    )
    yield (
        "data.separator",
        f"one character, :: or one of {', '.join(SEPARATORS)} is needed",
        data.separator is None or len(data.separator) == 1 or data.separator in {*SEPARATORS, "::"},
    )
    for option, role in (
        *(("columns", "user"), ("columns", "item")),
        *(("user_columns", "user"), ("item_columns", "item")),
    ):
        names, column = getattr(data, option), getattr(data, f"{role}_column")
        yield (
            f"data.{option}",
            f"names, each once, are needed, and among them {role} or --data.{role}_column {column}",
            not names or (bool({role, column} & {*names}) and len({*names}) == len(names)),
        )
    for name, kind in data.attribute_kinds.items():
        plain, colon, count = kind.partition(":")
        counted = plain == "buckets" and count.isdecimal() and int(count) > 1
        yield (
            f"data.attribute_kinds.{name}",
            f"one of {', '.join(ATTRIBUTE_KINDS)} is needed; buckets may have a count from 2 up: buckets:20",
            plain in ATTRIBUTE_KINDS and (not colon or counted),
        )
    yield "data.list_separator", "at least one character is needed", data.list_separator != ""


def _of_sharding(config: Config) -> Iterator[Rule]:
    sharding = config.sharding
    kinds = get_args(get_type_hints(ShardingConfig)["kind"])
    for table, kind in sharding.tables.items():
        yield f"sharding.tables.{table}", f"one of {', '.join(kinds)} is needed", kind in kinds
    for table, parts in sharding.partitions.items():
        yield f"sharding.partitions.{table}", "a whole number from 1 up is needed", parts > 0
    for table, ranks in sharding.ranks.items():
        needed = "ranks from 0 up are needed, as 0,1"
        yield f"sharding.ranks.{table}", needed, bool(ranks) and min(ranks) >= 0


def _of_combinations(config: Config) -> Iterator[Rule]:
    data, model, loss, spec = config.data, config.model, config.loss, loss_spec(config.loss.name)
    ranking = losses_where(lambda other: not other.needs_values)
    yield (
        "model.learn_temperature",
        "needs --model.similarity cosine, as dot products have no temperature",
        not model.learn_temperature or model.similarity == "cosine",
    )
    by_interaction = config.batches.rows == "interaction"
    yield "loss.name", "needs --batches.rows interaction", spec.user_rows or by_interaction
    yield (
        "model.low_rank",
        f"needs --loss.name {ranking}: closed-form scores cannot be added to predicted values",
        not model.low_rank or not spec.needs_values,
    )
    by_position, ordered = config.batches.rows == "next", history_spec(model.history).ordered
    yield (
        "loss.mask_known",
        "needs --batches.rows interaction or next",
        loss.mask_known or by_interaction or by_position or ordered,
    )
    yield (
        "batches.rows",
        f"goes with --model.history {ORDERED}, and these go with no other rows",
        by_position == ordered if config.batches.rows and model.history is not None else True,
    )
    yield (
        "loss.name",
        "needs --model.history none or bag",
        spec.serves_ordered or not (ordered or by_position),
    )
    yield (
        "model.combine",
        "needs --model.history none or bag, as vectors of ordered histories are as wide as the towers",
        model.combine == "sum" or not ordered,
    )
    yield (
        "data.negatives",
        "needs --model.history none or bag, as rows of ordered histories have no explicit negatives",
        data.negatives == "drop" or not (ordered or by_position),
    )
    yield (
        "run.evaluate_every",
        "needs a validation part, for instance --data.validation_size 0.1 (the test part is measured once)",
        not config.run.evaluate_every or data.validation_size > 0,
    )
    yield (
        "evaluation.split",
        "needs a validation part, for instance --data.validation_size 0.1",
        config.evaluation.split == "test" or data.validation_size > 0,
    )
    yield (
        "data.order",
        "orders the rows of each user, and not those of two, which --data.split temporal needs. Use "
        "--data.split leave_last_out, or timestamps: --data.order time",
        data.order == "time" or data.split != "temporal",
    )
    yield (
        "data.repeats",
        "needs --evaluation.seen keep: what a user has already cannot be found while it is masked",
        data.repeats == "drop" or config.evaluation.seen == "keep",
    )
    binary, least = spec.binary_values, data.min_value
    yield (
        "data.min_value",
        f"less than --loss.positive_value {loss.positive_value:g} is needed with --loss.name {loss.name}, as "
        "all that is left would count as 1; or --data.negatives use",
        not binary or least is None or data.negatives == "use" or least < loss.positive_value,
    )
    yield (
        "loss.positive_value",
        "--data.min_value or more is needed with --data.negatives use, as a negative counts as 0",
        not binary or least is None or data.negatives == "drop" or least <= loss.positive_value,
    )
    yield (
        "data.impressions",
        f"needs --loss.name {losses_where(lambda other: not other.needs_values or other.binary_values)}, as "
        f"what was only shown has no value that --loss.name {loss.name} could fit",
        data.impressions is None or not spec.needs_values or binary,
    )
    yield "data.name", "needs --data.interactions FILE", data.name != "files" or data.interactions is not None
    yield (
        "data.split",
        "needs --data.held_out FILE with --data.name files",
        data.split != "given" or (data.name == "files" and data.held_out is not None),
    )


def _is_text_encoding(name: str) -> bool:
    try:
        return codecs.lookup(name).name != "" and isinstance("".encode(name), bytes)
    except (LookupError, ValueError):
        return False


def _above_zero(value: float | None) -> bool:
    return value is None or value > 0
