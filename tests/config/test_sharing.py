"""What `--data.share users` goes with, and what it refuses with one line."""

from dataclasses import replace

import pytest

from trainer.config.parser import check, parse_config
from trainer.config.schema import Config
from trainer.config.sharing import with_shared_tables
from trainer.errors import ConfigError


def shared(**options):
    """A configuration whose hosts share users, with values by `section__option`."""
    config = Config()
    for key, value in {"data__share": "users", "run__choose": False, **options}.items():
        section, _, name = key.partition("__")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"run__choose": True},
            "--run.choose true: choosing settings needs the rows of all hosts. Use --run.choose false with "
            "--data.share users",
        ),
        (
            {"batches__rows": "interaction"},
            "--batches.rows interaction: with --data.share users a row of a step is a user. Leave it out, or "
            "use --batches.rows user",
        ),
        (
            {"loss__name": "mse", "batches__rows": "interaction"},
            "--batches.rows interaction: with --data.share users",
        ),
        ({"model__history": "recency"}, "--model.history recency: with --data.share users the query tower"),
        ({"model__history": "bag"}, "--model.history bag: with --data.share users the query tower"),
        (
            {"model__user_features": ["age"]},
            "--model.user_features ['age']: with --data.share users attributes of users are not read.",
        ),
        (
            {"data__users": "U"},
            "--data.users U: with --data.share users attributes of users are not read. Leave it out",
        ),
        (
            {"data__weight_column": "w"},
            "--data.weight_column w: with --data.share users all interactions weigh alike. Leave it out",
        ),
        ({"data__negatives": "use"}, "--data.negatives use: with --data.share users there are no explicit"),
        ({"model__low_rank": 64}, "--model.low_rank 64: with --data.share users there is no closed form"),
        ({"model__start": "low_rank"}, "--model.start low_rank: with --data.share users there is no closed"),
        ({"model__hashed_rows": 100}, "--model.hashed_rows 100: with --data.share users a user has a row"),
        (
            {"run__origin": "runs/old"},
            "--run.origin runs/old: with --data.share users a training cannot begin",
        ),
        (
            {"evaluation__baselines": ["ease"]},
            "--evaluation.baselines ['ease']: with --data.share users names out of popularity, random",
        ),
    ],
)
def test_what_needs_the_rows_of_other_hosts_is_refused(options, line):
    with pytest.raises(ConfigError) as raised:
        check(shared(**options))
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_what_hosts_can_do_by_themselves_is_not_refused():
    check(shared(loss__candidates="sampled", data__split="temporal", model__item_features=["genres"]))


def test_the_command_line_knows_the_option():
    with pytest.raises(ConfigError, match="run.choose true: choosing settings needs the rows of all hosts"):
        parse_config(["--data.share", "users"])


def test_the_table_of_users_has_a_partition_a_rank_unless_something_else_is_asked_for():
    assert with_shared_tables(shared()).sharding.tables == {"user": "row_partitioned"}
    asked = shared(sharding__tables={"user": "table_wise"})
    assert with_shared_tables(asked).sharding.tables == {"user": "table_wise"}
    assert with_shared_tables(Config()).sharding.tables == {}
