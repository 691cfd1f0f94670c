"""What goes with `--data.share users`: the rules, one line each, for what would need other hosts' rows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

from trainer.config.schema import Config

Rule: TypeAlias = tuple[str, str, bool]
"""As in `trainer.config.validation`."""
TOGETHER = "with --data.share users"
BASELINES = ("popularity", "random")
"""Baselines that need no other host's rows."""


def rules_of_sharing(config: Config) -> Iterator[Rule]:
    """Yield what a configuration whose hosts share users must satisfy; nothing for others."""
    data, model, run = config.data, config.model, config.run
    if data.share == "none":
        return
    yield (
        "run.choose",
        f"choosing settings needs the rows of all hosts. Use --run.choose false {TOGETHER}",
        not run.choose,
    )
    yield (
        "batches.rows",
        f"{TOGETHER} a row of a step is a user. Leave it out, or use --batches.rows user",
        config.batches.rows in (None, "user"),
    )
    yield (
        "loss.name",
        f"{TOGETHER} a row of a step is a user. Use --loss.name softmax",
        config.loss.name == "softmax",
    )
    yield (
        "model.history",
        f"{TOGETHER} the query tower knows users by their ids. Use --model.history none",
        model.history in (None, False, "none"),
    )
    yield "model.user_id", f"needs --model.user_id true {TOGETHER}", model.user_id is not False
    yield (
        "model.user_features",
        f"{TOGETHER} attributes of users are not read. Leave it out",
        not model.user_features,
    )
    yield "data.users", f"{TOGETHER} attributes of users are not read. Leave it out", data.users is None
    yield "data.user_vectors", f"{TOGETHER} they are not read. Leave it out", not data.user_vectors
    yield (
        "data.weight_column",
        f"{TOGETHER} all interactions weigh alike. Leave it out",
        data.weight_column is None,
    )
    yield (
        "data.negatives",
        f"{TOGETHER} there are no explicit negatives. Use --data.negatives drop",
        data.negatives == "drop",
    )
    yield (
        "model.start",
        f"{TOGETHER} there is no closed form. Use --model.start random",
        model.start == "random",
    )
    yield "model.low_rank", f"{TOGETHER} there is no closed form. Use --model.low_rank 0", not model.low_rank
    yield "model.hashed_rows", f"{TOGETHER} a user has a row. Leave it out", model.hashed_rows is None
    yield (
        "run.origin",
        f"{TOGETHER} a training cannot begin with another run (--from). Leave it out",
        run.origin is None,
    )
    yield (
        "evaluation.baselines",
        f"{TOGETHER} names out of {', '.join(BASELINES)} are needed, which ask for no other host's rows",
        set(config.evaluation.baselines) <= {*BASELINES},
    )


def with_shared_tables(config: Config) -> Config:
    """Return the configuration with a partition a rank of the table of users, where users are shared."""
    sharding = config.sharding
    if config.data.share == "none" or sharding.plan is not None:
        return config
    tables = {"user": "row_partitioned"} | sharding.tables
    return replace(config, sharding=replace(sharding, tables=tables))
