"""Help on options: all of them, one section with an example each, or one option.

Everything is read off the dataclasses of `trainer.config.schema`: names, types, defaults and docstrings.
"""

import difflib
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

import docstring_parser

from trainer.config.schema import Config
from trainer.errors import ConfigError

GENERAL = "general"
"""Section, in the help alone, of the options that stand in no section."""
INDENT, WIDEST = 24, 100
"""Columns before the text of an option, and the most of a line."""
METAVARS = {bool: "true|false", int: "N", float: "X", str: "TEXT"}
EXAMPLES: dict[str, str] = {
    "timeout": "300",
    "run.dir": "runs/monday",
    "run.seed": "7",
    "run.epochs": "60",
    "run.log_every": "0",
    "run.evaluate_every": "1",
    "run.patience": "5",
    "run.save_every": "500",
    "run.keep_last": "3",
    "run.keep_best": "2",
    "run.origin": "runs/yesterday",
    "run.trackers": "mlflow",
    "data.root": "~/movielens",
    "data.cache": "/scratch/prepared",
    "data.interactions": "orders.csv",
    "data.held_out": "orders-of-today.csv",
    "data.impressions": "shown.csv",
    "data.users": "customers.csv",
    "data.items": "products.csv",
    "data.user_column": "customer",
    "data.item_column": "sku",
    "data.value_column": "stars",
    "data.timestamp_column": "ordered_at",
    "data.weight_column": "quantity",
    "data.user_vectors": "{profile: profile.npz}",
    "data.item_vectors": "{image: image.npz}",
    "data.attribute_kinds": "{year: number}",
    "data.list_separator": "/",
    "model.new_item_boost": "0.5",
    "data.encoding": "cp1252",
    "data.separator": "semicolon",
    "data.columns": "[user, item, value, timestamp]",
    "data.user_columns": "[user, age, gender]",
    "data.item_columns": "[item, title, genres]",
    "data.min_value": "4",
    "data.k_core": "5",
    "data.test_size": "0.1",
    "data.validation_size": "0.1",
    "data.split_seed": "7",
    "data.synthetic_users": "300",
    "data.synthetic_items": "200",
    "data.synthetic_interactions": "6000",
    "data.synthetic_seed": "1",
    "batches.size": "1024",
    "batches.ahead": "2",
    "model.dim": "64",
    "model.temperature": "0.15",
    "model.popularity_prior": "0",
    "model.user_id": "false",
    "model.history_length": "20",
    "model.vector_dropout": "0.3",
    "model.init_std": "0.01",
    "model.low_rank": "0",
    "model.low_rank_weight": "32",
    "model.low_rank_penalty": "100",
    "model.history_dropout": "0.5",
    "model.item_id_dropout": "0.1",
    "model.hashed_rows": "100000",
    "model.user_features": "gender,age",
    "model.item_features": "genres,release_year",
    "model.hidden": "256,128",
    "loss.samples": "4096",
    "loss.popularity_power": "0.5",
    "loss.user_weight_power": "0",
    "loss.positive_value": "3.5",
    "optimizer.learning_rate": "0.01",
    "optimizer.table_learning_rates": "{item: 0.2, item_bias: 0.01}",
    "optimizer.dense_learning_rate": "0.0003",
    "optimizer.betas": "0.9,0.99",
    "optimizer.weight_decay": "0.0001",
    "optimizer.clip_gradients": "1",
    "optimizer.warmup": "0.05",
    "sharding.tables": "{user: row_wise, item: table_wise}",
    "sharding.partitions": "{user: 8}",
    "sharding.ranks": "{item: [0, 1]}",
    "sharding.plan": "plan.json",
    "evaluation.k": "5,10,100",
    "evaluation.baselines": "popularity,ease",
    "evaluation.chunk": "1024",
}
"""A value of each option whose example cannot be told from its choices or its default."""


@dataclass(frozen=True)
class Option:
    """One option of the configuration.

    Attributes:
        key: Dotted name.
        kind: Its type.
        default: Value where it is not given.
        text: Its docstring, in one line.
    """

    key: str
    kind: Any
    default: Any
    text: str

    @property
    def _kinds(self) -> list[Any]:
        """Its types, without None."""
        union = typing.get_origin(self.kind) in (typing.Union, types.UnionType)
        kinds = typing.get_args(self.kind) if union else (self.kind,)
        return [kind for kind in kinds if kind is not type(None)]

    @property
    def choices(self) -> list[str]:
        """Values that it may have, if it has a list of them."""
        kinds = [kind for kind in self._kinds if typing.get_origin(kind) is typing.Literal]
        return [str(choice) for kind in kinds for choice in typing.get_args(kind)]

    @property
    def example(self) -> str:
        """Value that stands for it in an example."""
        if self.key in EXAMPLES:
            return EXAMPLES[self.key]
        if self.kind is bool:
            return _shown(not self.default)
        others = [choice for choice in self.choices if choice != self.default]
        return others[0] if others else _shown(self.default)

    @property
    def metavar(self) -> str:
        """What stands for its value."""
        if self.choices:
            return "NAME"
        kind = self._kinds[0]
        if typing.get_origin(kind) is list:
            return f"{METAVARS.get(typing.get_args(kind)[0], 'VALUE')},..."
        return "{NAME: VALUE, ...}" if typing.get_origin(kind) is dict else METAVARS.get(kind, "VALUE")

    def lines(self, width: int, with_example: bool) -> list[str]:
        """Return the lines of its help."""
        text = f"{self.text} One of {', '.join(self.choices)}." if self.choices else self.text
        text += f" (default: {_shown(self.default)})"
        head, column = f"  --{self.key} {self.metavar}", " " * INDENT
        body = textwrap.wrap(text, width - INDENT, break_on_hyphens=False)
        if with_example:
            quote = "'" if " " in self.example else ""
            body.append(f"Example: --{self.key} {quote}{self.example}{quote}")
        lines = [head] if len(head) > INDENT - 2 else [head.ljust(INDENT) + body.pop(0)]
        return [*lines, *(column + line for line in body)]


def help_text(name: str | None = None) -> str:
    """Return the help on all options, or with examples that on a section or an option.

    Raises:
        ConfigError: There is no such section and no such option.
    """
    width = min(shutil.get_terminal_size((80, 24)).columns - 2, WIDEST)
    sections = dict(_sections())
    if name is None:
        blocks = [_section(title, options, width, False) for title, options in sections.values()]
        return "\n\n".join(blocks)
    if name in sections:
        return _section(*sections[name], width, True)
    options = {option.key: option for _, found in sections.values() for option in found}
    if name in options:
        return "\n".join(options[name].lines(width, True))
    near = difflib.get_close_matches(name, [*sections, *options], n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Sections: {', '.join(sections)}"
    raise ConfigError(f"--help {name}: no such section or option. {hint}")


def _section(title: str, options: list[Option], width: int, with_examples: bool) -> str:
    lines = [line for option in options for line in option.lines(width, with_examples)]
    return "\n".join([*textwrap.wrap(title, width), *lines])


def _sections() -> Iterator[tuple[str, tuple[str, list[Option]]]]:
    """Yield the name of each section with its title and options."""
    yield GENERAL, (_title(GENERAL, Config), _options(Config, ""))
    for name, kind in typing.get_type_hints(Config).items():
        if is_dataclass(kind):
            yield name, (_title(name, kind), _options(kind, f"{name}."))


def _title(name: str, kind: Any) -> str:
    text = docstring_parser.parse_from_object(kind).short_description or ""
    return f"{name}: {text[:1].lower()}{text[1:].removesuffix('.')}"


def _options(kind: Any, prefix: str) -> list[Option]:
    hints = typing.get_type_hints(kind)
    texts = {
        param.arg_name: " ".join((param.description or "").split())
        for param in docstring_parser.parse_from_object(kind).params
    }
    return [
        Option(f"{prefix}{entry.name}", hints[entry.name], _default(entry), texts.get(entry.name, ""))
        for entry in fields(kind)
        if not is_dataclass(hints[entry.name])
    ]


def _default(entry: Any) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _shown(value: Any) -> str:
    """Return a value as the command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value)) or "[]"
    return str(value)
