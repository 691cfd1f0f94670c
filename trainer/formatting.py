"""Counts, bytes, times, ranks and commands as text, and its wrapping."""

import shlex
import textwrap
from collections.abc import Iterable

_NAMES: dict[str, str] = {}
"""Address by local copy."""


def format_count(count: int, noun: str) -> str:
    """Return a count and its noun: `1 rank`, `1,024 ranks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_bytes(count: float) -> str:
    """Return three digits and a unit of powers of 1,000, as devices are sold: `80 GB`, `3.21 MB`, `512 B`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"


def format_milliseconds(milliseconds: float) -> str:
    """Return at least three digits, and all before the point: `0.0123 ms`, `1,234 ms`."""
    shown = f"{milliseconds:,.0f}" if abs(milliseconds) >= 99.95 else f"{milliseconds:.3g}"
    return f"{shown} ms"


def format_command(*words: object) -> str:
    """Return a command of this program, quoted for a shell: `python -m trainer plan 'my run'`."""
    return f"python -m trainer {shlex.join(with_names(str(word)) for word in words)}"


def name_folder(folder: object, name: str) -> None:
    """Let messages call a folder by the address that it is a local copy of; see `with_names`."""
    _NAMES[str(folder)] = name


def with_names(text: str) -> str:
    """Return a text in which local copies go by their addresses, which hold on any machine."""
    for folder in sorted(_NAMES, key=len, reverse=True):
        text = text.replace(folder, _NAMES[folder])
    return text


def format_option(name: str, value: object) -> str:
    """Return an option and its value, quoted for a shell; after `=` where the value looks like an option."""
    return shlex.join([f"{name}={value}"] if str(value).startswith("-") else [name, str(value)])


def format_ranks(ranks: Iterable[int], most: int = 3) -> str:
    """Return ranks as ranges: `0-3, 6`, or with more than `most` ranges `0-3, 6 and 12 more`."""
    ranges: list[list[int]] = []
    for rank in sorted(ranks):
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:most])
    left_out = sum(last - first + 1 for first, last in ranges[most:])
    return f"{shown} and {left_out:,} more" if left_out else shown


def wrapped(text: str) -> str:
    """Wrap at 80 columns, and indent further lines by two columns more than the first."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.fill(text, 80, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
