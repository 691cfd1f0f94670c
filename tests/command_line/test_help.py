"""Help: every option with its meaning and default, once, and an example that can be typed."""

import ast
import dataclasses
import typing
from itertools import pairwise
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.command_line.help import EXAMPLES, help_text
from trainer.config import schema as config_module
from trainer.config.parser import make_parser
from trainer.config.schema import Config
from trainer.errors import ConfigError

SECTIONS = [name for name, kind in typing.get_type_hints(Config).items() if dataclasses.is_dataclass(kind)]


def keys(kind: type = Config, prefix: str = "") -> list[str]:
    found = []
    for field in dataclasses.fields(kind):
        inner = typing.get_type_hints(kind)[field.name]
        found += keys(inner, f"{field.name}.") if dataclasses.is_dataclass(inner) else [prefix + field.name]
    return found


def docstrings(kind: type) -> dict[str, str]:
    """The string that follows each field of a dataclass in config.py; a section has that of its class."""
    tree = ast.parse(Path(config_module.__file__).read_text())
    body = next(
        part.body for part in tree.body if isinstance(part, ast.ClassDef) and part.name == kind.__name__
    )
    return {
        ast.unparse(field.target): ast.literal_eval(text.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def entries(text: str) -> dict[str, str]:
    """Help of each option by key, in one line."""
    parts = (" ".join(entry.split()) for entry in text.split("\n  --")[1:])
    return {part.split()[0]: part for part in parts}


def test_every_option_has_a_help_text_and_shows_its_default() -> None:
    found, sections = entries(help_text()), {"": Config} | typing.get_type_hints(Config)
    assert list(found) == [key for key in keys() if "." not in key] + [key for key in keys() if "." in key]
    for key, entry in found.items():
        section, _, name = key.rpartition(".")
        meaning = " ".join(docstrings(sections[section])[name].split())
        assert meaning in entry, key
        assert "(default: " in entry, key


def test_choices_are_printed_once() -> None:
    entry = entries(help_text())["optimizer.schedule"]
    assert entry.count("One of constant, linear, cosine. (default: linear)") == 1
    assert entry.count("constant") == 1


@pytest.mark.parametrize("section", ["general", *SECTIONS])
def test_the_help_of_a_section_has_its_options_alone_with_an_example_each(section: str, capsys) -> None:
    assert main(["--help", section]) == 0
    text = capsys.readouterr().out
    prefix = "" if section == "general" else f"{section}."
    wanted = [key for key in keys() if (key.startswith(prefix) if prefix else "." not in key)]
    found = entries(text)
    assert list(found) == wanted
    for key, entry in found.items():
        assert entry.count(f"Example: --{key} ") == 1


@pytest.mark.parametrize("key", keys())
def test_an_example_is_a_value_that_the_option_takes_and_not_its_default(key: str) -> None:
    example = help_text(key).partition("Example: ")[2].strip()
    option, _, value = example.partition(" ")
    value = value.strip("'")
    if value[0] not in "{[" and "[" in str(_value(Config(), key)):
        value = f"[{value}]"  # as the command line puts brackets around a list
    parsed = make_parser("x").parse_args([option, value]).as_dict()
    assert _value(parsed, key) != _value(Config(), key), example


def _value(config, key: str):
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


def test_examples_are_of_options_that_exist() -> None:
    assert set(EXAMPLES) <= set(keys())


def test_lines_follow_the_width_of_the_terminal(monkeypatch) -> None:
    for columns, most in ((60, 58), (400, 100)):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = [line for line in help_text().splitlines() if not line.startswith("  --")]
        assert most - 12 < max(map(len, lines)) <= most


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dataa", "--help dataa: no such section or option. Did you mean data?"),
        ("run.epoch", "--help run.epoch: no such section or option. Did you mean run.epochs?"),
        ("zzz", "--help zzz: no such section or option. Sections: general, run, data, batches"),
    ],
)
def test_an_unknown_section_is_one_line(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as failure:
        help_text(name)
    assert str(failure.value).startswith(words)
