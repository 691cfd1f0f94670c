"""Values by key, as Python gives them -> options of the command line."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any


def options_of(changes: Mapping[str, Any]) -> list[str]:
    """Return values by key as options of the command line."""
    return list(_options(changes))


def _options(changes: Mapping[str, Any]) -> Iterator[str]:
    for key, value in changes.items():
        if isinstance(value, Mapping):  # of mappings, an option an entry
            yield from _options({f"{key}.{name}": entry for name, entry in value.items()})
        else:
            yield from (f"--{key}", _text(value))


def _text(value: Any) -> str:
    """Return a value as an option gives it: YAML, for which JSON will do."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return json.dumps(list(value) if isinstance(value, tuple | set) else value)
