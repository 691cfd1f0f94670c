"""Configuration from YAML files and the command line, and back into a file.

jsonargparse parses; this module adds that a misspelt key is answered with the nearest known one, and that
every error is one line. Nothing here imports torch.
"""

import difflib
import math
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from trainer.config.effects import check_effects
from trainer.config.schema import Config
from trainer.config.validation import rules
from trainer.errors import ConfigError
from trainer.facts.histories import OLD_NAMES

PARSER_OPTIONS = ("help", "config", "print_config")


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes strings like `1e3`, which are numbers to jsonargparse but not to PyYAML."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_config(arguments: Sequence[str], base: Path | None = None) -> Config:
    """Return the configuration of defaults, then `--config` files, then `--section.key value` options.

    Args:
        arguments: Options as on the command line.
        base: File that comes before all of them, such as a run's own; what it holds was not asked for now,
            and may have no effect.

    Raises:
        ConfigError: Names file or option, key, value and remedy.
    """
    arguments = _files_first(list(_normalised(arguments)))
    given = _keys_of(arguments)
    if base is not None:
        arguments = ["--config", str(base), *arguments]
    for place, path in _config_files(arguments):
        _check_file(place, path)
    parser = make_parser("python -m trainer train")
    try:
        parsed = parser.parse_args(arguments)
        config = _from_mapping(Config, parsed.as_dict())
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(_one_line(str(error), arguments)) from None
    history = config.model.history
    if isinstance(history, bool):
        config = replace(config, model=replace(config.model, history=OLD_NAMES[history]))
    check(config)
    check_effects(config, given)
    return config


def read_config(path: Path) -> Config:
    """Return the configuration in a run's file."""
    return parse_config([], base=path)


def config_text(config: Config) -> str:
    """Return the configuration as YAML, in the order of the dataclasses."""
    return yaml.dump(asdict(config), Dumper=_Dumper, sort_keys=False)


def changes(before: Config, after: Config) -> dict[str, Any]:
    """Return the values in `after` of all keys that differ from `before`, by dotted name."""
    leaves = (key for key, kind in _keys(Config).items() if not is_dataclass(kind))
    return {key: _value(after, key) for key in leaves if _value(before, key) != _value(after, key)}


def make_parser(prog: str) -> jsonargparse.ArgumentParser:
    """Return a parser of every field, whose help gives each field's meaning, unit and default."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--from RUN] [--config F] [--section.key V ...]",
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", help="YAML file with any of the keys below, nested by section."
    )
    parser.add_argument("--print_config", action="store_true", help="Print what results, and stop.")
    parser.add_class_arguments(Config)
    return parser


def check(config: Config) -> None:
    """Refuse values and combinations that no training can use.

    Raises:
        ConfigError: Names the key, its value and the rule.
    """
    for key, kind in _keys(Config).items():
        value = _value(config, key) if not is_dataclass(kind) else None
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"--{key} {value}: a finite number is needed")
    for key, rule, holds in rules(config):
        if not holds:
            raise ConfigError(f"--{key} {_value(config, key)}: {rule}")


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return str(value).lower() if isinstance(value, bool) else value


def _keys(kind: type, prefix: str = "") -> dict[str, Any]:
    """Return the type of every key, sections included, by dotted name."""
    found: dict[str, Any] = {}
    types = typing.get_type_hints(kind)
    for entry in fields(kind):  # type: ignore[arg-type]
        found[prefix + entry.name] = types[entry.name]
        if is_dataclass(types[entry.name]):
            found |= _keys(types[entry.name], f"{prefix}{entry.name}.")
    return found


def _from_mapping(kind: type, values: dict[str, Any]) -> Any:
    types = typing.get_type_hints(kind)
    return kind(
        **{
            entry.name: _from_mapping(types[entry.name], values[entry.name])
            if is_dataclass(types[entry.name])
            else values[entry.name]
            for entry in fields(kind)  # type: ignore[arg-type]
        }
    )


def _normalised(arguments: Sequence[str]) -> Iterator[str]:
    """Split `--key=value`, check that options exist, and make `1,2` a list where the key holds one."""
    known, key = _keys(Config), ""
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            if key not in PARSER_OPTIONS:
                _check_key("", key.removesuffix("+"), known, "--")
            yield f"--{key}"
            if not equals:
                continue
            argument = value
        if _is_list(key.removesuffix("+"), known) and not argument.startswith("["):
            argument = f"[{argument}]"
        yield argument


def given_keys(arguments: Sequence[str]) -> set[str]:
    """Return the keys that options and `--config` files name; an entry of a mapping names the mapping."""
    return _keys_of(list(_normalised(arguments)))


def _keys_of(arguments: Sequence[str]) -> set[str]:
    """Return the same for arguments that are normalised."""
    known = _keys(Config)
    names = [argument[2:].removesuffix("+") for argument in arguments if argument.startswith("--")]
    for place, path in _config_files(arguments):
        _check_file(place, path)
        content = yaml.safe_load(path.read_text())
        # With every section in it, it is a run's own or one that --print_config wrote: it names all options,
        # so that none of them was asked for, and options given beside it may leave some without effect.
        if not {entry.name for entry in fields(Config)} <= content.keys():
            names += _paths(content, known)
    names = [name for name in names if name not in PARSER_OPTIONS]
    return {name if name in known else name.rpartition(".")[0] for name in names}


def _is_list(key: str, known: dict[str, Any]) -> bool:
    """Return whether a key, or an entry of a mapping, holds a list."""
    kind = known.get(key)
    if kind is None and typing.get_origin(known.get(key.rpartition(".")[0])) is dict:
        kind = typing.get_args(known[key.rpartition(".")[0]])[1]
    return typing.get_origin(kind) is list


def _check_key(place: str, key: str, known: dict[str, Any], dashes: str = "") -> None:
    section = key.rsplit(".", 1)[0]
    if key in known or typing.get_origin(known.get(section)) is dict:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f"Did you mean {dashes}{near[0]}?" if near else "See python -m trainer train --help"
    raise ConfigError(f"{place}{dashes}{key}: no such option. {hint}")


def _files_first(arguments: list[str]) -> list[str]:
    """Move `--config FILE` to the front, so that an option overrides a file wherever it stands."""
    places = {place for place, option in enumerate(arguments) if option == "--config"}
    places |= {place + 1 for place in places if place + 1 < len(arguments)}
    files, others = [], []
    for place, argument in enumerate(arguments):
        (files if place in places else others).append(argument)
    return files + others


def _config_files(arguments: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for option, value in pairwise(arguments):
        if option == "--config":
            yield value, Path(value)


def _check_file(place: str, path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"--config {place}: no such file. Name a YAML file, such as configs/default.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {place}: cannot be read ({error}). Name a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(f"{place}{line}: not YAML: {problem}. Mend the file") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{place}: holds {type(content).__name__}, expected keys such as `model:`. Mend the file"
        )
    known = _keys(Config)
    for key in _paths(content, known):
        _check_key(f"{place}: ", key, known)
    for section, kind in known.items():
        if is_dataclass(kind) and section in content and not isinstance(content[section], dict):
            raise ConfigError(
                f"{place}: {section} is {content[section]!r}, expected keys below it. Mend the file"
            )


def _paths(content: dict[Any, Any], known: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        yield key
        if isinstance(value, dict) and is_dataclass(known.get(key)):
            yield from _paths(value, known, f"{key}.")


def _one_line(message: str, arguments: Sequence[str]) -> str:
    """Turn an error of jsonargparse's into one line that names place, value and what was expected."""
    found = re.search(r'key "([\w.]+)"', message)
    if not found:
        return " ".join(message.split())
    key = found.group(1)
    given = re.search(r"(?:Given value|Got value|value): (.+)", message)
    value = given.group(1).strip() if given else ""
    for option, following in reversed(list(pairwise([*arguments, "(nothing)"]))):
        if option == f"--{key}":
            return f"{option} {following}: expected {_expected(_keys(Config).get(key))}"
        if option.startswith(f"--{key}."):  # an entry of a mapping
            return f"{option} {following}: expected {_expected(typing.get_args(_keys(Config)[key])[1])}"
    files = ", ".join(str(path) for _, path in _config_files(arguments))
    return f"{files}: {key} is {value!r}, expected {_expected(_keys(Config).get(key))}"


def _expected(kind: Any) -> str:
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if kind in plain:
        return plain[kind]
    parts = tuple(part for part in typing.get_args(kind) if part is not type(None))
    if len(parts) > 1:  # `true` and `false` beside names are those of older versions
        parts = tuple(part for part in parts if part is not bool)
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(parts)
    if typing.get_origin(kind) is list:
        return f"a list of {_expected(parts[0])}s".replace("a list of a ", "a list of ")
    if typing.get_origin(kind) is dict:
        return f"a mapping of names to {_expected(parts[1]).removeprefix('a ')}s"
    if parts:
        return " or ".join(_expected(part) for part in parts)
    return "keys such as those under --help"
