"""Options that would change nothing are refused; every option of the schema is looked at."""

import dataclasses
import typing

import pytest

from trainer.config.effects import ALWAYS, EFFECTS, check_decided_effects
from trainer.config.parser import parse_config
from trainer.config.schema import Config
from trainer.config.size_defaults import with_size_defaults
from trainer.errors import ConfigError

# For each option that may have no effect: options under which it has none, and options that give it one.
CASES: dict[str, tuple[str, str, str]] = {
    "data.root": ("elsewhere", "--data.name synthetic", "--data.name ml-1m"),
    "data.source": ("none", "--data.name synthetic", "--data.name ml-1m"),
    "data.format": ("csv", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.encoding": ("cp1252", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.separator": ("tab", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.columns": ("user,item", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.user_columns": (
        "user,age",
        "--data.name files --data.interactions f --data.items i",
        "--data.name files --data.interactions f --data.users u",
    ),
    "data.item_columns": (
        "item,title",
        "--data.name files --data.interactions f --data.users u",
        "--data.name files --data.interactions f --data.items i",
    ),
    "data.interactions": ("f", "--data.name ml-1m", "--data.name files"),
    "data.held_out": ("f", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.users": ("f", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.items": ("f", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.user_column": ("u", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.item_column": ("i", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.value_column": (
        "v",
        "--data.name files --data.interactions f",
        "--data.name files --data.interactions f --data.min_value 3",
    ),
    "data.weight_column": ("w", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.negatives": ("use", "", "--data.min_value 4"),
    "data.timestamp_column": (
        "t",
        "--data.name files --data.interactions f --data.order file",
        "--data.name files --data.interactions f",
    ),
    "data.order": ("file", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.impressions": (
        "f",
        "--data.name files --data.interactions f",
        "--data.name files --data.interactions f --data.negatives use",
    ),
    "data.user_vectors": ("{a: f.npz}", "--data.name synthetic", "--data.name ml-1m"),
    "data.item_vectors": ("{a: f.npz}", "--data.name synthetic", "--data.name ml-1m"),
    "data.attribute_kinds": ("{year: number}", "--data.name synthetic", "--data.name ml-1m"),
    "data.list_separator": (";", "--data.name ml-1m", "--data.name files --data.interactions f"),
    "data.bad_rows": ("skip", "--data.name synthetic", "--data.name ml-1m"),
    "data.split": (
        "temporal",
        "--data.name files --data.interactions f --data.held_out h",
        "--data.name files --data.interactions f",
    ),
    "data.test_size": ("0.3", "--data.split leave_last_out", "--data.split temporal"),
    "data.repeats": (
        "keep",
        "--data.split random --evaluation.seen keep",
        "--data.split temporal --evaluation.seen keep",
    ),
    "data.split_seed": ("7", "--data.split temporal", "--data.split per_user"),
    "data.synthetic_users": ("50", "--data.name ml-1m", "--data.name synthetic"),
    "data.synthetic_items": ("50", "--data.name ml-1m", "--data.name synthetic"),
    "data.synthetic_interactions": ("500", "--data.name ml-1m", "--data.name synthetic"),
    "data.synthetic_seed": ("5", "--data.name ml-1m", "--data.name synthetic"),
    "model.temperature": ("0.1", "--model.similarity dot", "--model.similarity cosine"),
    "model.popularity_prior": ("0.5", "--model.item_bias false", "--model.item_bias true"),
    "model.low_rank_weight": ("8", "--model.low_rank 0", "--model.low_rank 16"),
    "model.low_rank_penalty": ("8", "--model.low_rank 0", "--model.low_rank 0 --model.start low_rank"),
    "model.history_dropout": ("0.5", "--model.history false", "--model.history true"),
    "model.history_length": ("20", "--model.history bag", "--model.history recency"),
    "model.history_table": ("tied", "--model.history none", "--model.history recency"),
    "model.history_decay": ("time", "--model.history bag", "--model.history transformer"),
    "model.vector_dropout": ("0.5", "--batches.rows user --model.history bag", "--model.history recency"),
    "model.new_item_boost": (
        "0.5",
        "--model.item_features year",
        "--model.item_features year --model.item_id_dropout 0.2",
    ),
    "model.combine": ("concat", "--model.history false", "--model.history true"),
    "loss.candidates": (
        "in_batch",
        "--loss.name mse --batches.rows interaction",
        "--loss.name bpr --batches.rows interaction",
    ),
    "loss.samples": ("64", "--loss.candidates catalogue", "--loss.candidates sampled"),
    "loss.popularity_power": ("0.5", "--loss.candidates in_batch", "--loss.candidates sampled"),
    "loss.logq": ("false", "--loss.candidates catalogue", "--loss.candidates in_batch"),
    "loss.mask_known": (
        "false",
        "--loss.name mse --batches.rows interaction",
        "--loss.name softmax --batches.rows interaction",
    ),
    "loss.user_weight_power": ("0.1", "--batches.rows interaction", "--batches.rows user"),
    "loss.positive_value": (
        "3",
        "--loss.name mse --batches.rows interaction",
        "--loss.name bce --batches.rows interaction",
    ),
    "optimizer.betas": ("0.8,0.9", "--optimizer.name sgd", "--optimizer.name adam"),
    "optimizer.dense_learning_rate": ("0.1", "", "--model.hidden 16"),
    "optimizer.clip_gradients": ("1", "--model.history bag", "--model.history recency"),
    "sharding.kind": ("column_wise", "--sharding.plan p", ""),
    "sharding.tables": ("{user: data_parallel}", "--sharding.plan p", ""),
    "sharding.partitions": ("{user: 2}", "--sharding.plan p", "--sharding.kind row_partitioned"),
    "sharding.ranks": ("{user: [0]}", "--sharding.plan p", ""),
    "sharding.uvm_caching": ("true", "--sharding.plan p", ""),
    "run.keep_last": ("3", "", "--run.save_every 10"),
    "run.save_async": ("true", "", "--run.save_every 10"),
    "run.on_save_failure": ("stop", "", "--data.validation_size 0.1"),
    "run.metric": ("recall", "", "--data.validation_size 0.1"),
}


def options_of_the_schema(kind: type = Config, prefix: str = "") -> list[str]:
    found = []
    for field in dataclasses.fields(kind):
        inner = typing.get_type_hints(kind)[field.name]
        if dataclasses.is_dataclass(inner):
            found += options_of_the_schema(typing.cast(type, inner), f"{field.name}.")
        else:
            found.append(prefix + field.name)
    return found


def test_every_option_is_either_always_effective_or_has_a_condition() -> None:
    conditional = [key for effect in EFFECTS for key in effect.keys]
    assert sorted([*ALWAYS, *conditional]) == sorted(options_of_the_schema())


def test_every_condition_is_tried_below() -> None:
    assert sorted(CASES) == sorted(key for effect in EFFECTS for key in effect.keys)


@pytest.mark.parametrize("key", CASES)
def test_an_option_without_effect_is_refused_with_what_it_needs(key: str) -> None:
    value, without, with_effect = CASES[key]
    with pytest.raises(ConfigError, match=f"--{key} .*: has no effect here. It needs .*; or leave it out"):
        parse_config([f"--{key}", value, *without.split()])
    parse_config([f"--{key}", value, *with_effect.split()])


def test_a_column_of_values_needs_a_loss_that_fits_them_or_a_least_value() -> None:
    files = "--data.name files --data.interactions f --data.value_column v"
    with pytest.raises(ConfigError, match=r"--data.value_column v: has no effect .* --loss.name mse or bce"):
        parse_config(files.split())
    parse_config(f"{files} --loss.name mse --batches.rows interaction".split())


def test_a_default_that_is_given_is_never_refused() -> None:
    parse_config(["--optimizer.name", "sgd", "--optimizer.betas", "0.9,0.999", "--loss.logq", "true"])


def test_a_key_of_a_file_is_given_too_and_a_runs_own_is_not(tmp_path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("model: {similarity: dot, temperature: 0.1}\n")
    with pytest.raises(ConfigError, match=r"--model.temperature 0.1: has no effect here"):
        parse_config(["--config", str(file)])
    assert parse_config(["--run.seed", "1"], base=file).model.temperature == 0.1


@pytest.mark.parametrize(
    ("options", "items", "refused"),
    [
        ("--loss.samples 64", 1682, "--loss.samples 64"),  # a catalogue as small as this is scored whole
        ("--loss.samples 64", 200_000, None),
        ("--loss.logq false", 1682, "--loss.logq false"),
        ("--optimizer.betas 0.8,0.9 --sharding.kind column_wise", 1682, "--optimizer.betas"),  # not with Adam
        ("--optimizer.betas 0.8,0.9", 1682, None),
    ],
)
def test_what_auto_turns_out_to_be_decides_too(options: str, items: int, refused: str | None) -> None:
    asked = parse_config(options.split())
    sized = with_size_defaults(asked, 943, items, 80_000)
    if refused is None:
        check_decided_effects(asked, sized)
        return
    with pytest.raises(ConfigError) as error:
        check_decided_effects(asked, sized)
    assert str(error.value).startswith(refused)
