"""Checks and what they find: facts of this machine, a verdict on them, and both as text and JSON."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from trainer import __version__
from trainer.formatting import format_count

Facts: TypeAlias = dict[str, Any]
"""What a check has seen: text, numbers, lists and dictionaries of them, as JSON has."""
Severity: TypeAlias = Literal["ok", "note", "warning", "error"]

SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "error")
"""Nothing to do, good to know, may go wrong, keeps a training from running."""
INDENT, COMMAND_INDENT = 24, 4
"""Columns before what a finding says, and before a command, which has to be copied."""


@dataclass(frozen=True)
class Verdict:
    """What facts mean.

    Attributes:
        severity: One of `SEVERITIES`.
        text: The finding, one or a few sentences.
        advice: What to do about it; empty where there is nothing to do.
        commands: Commands that do it, as a shell takes them in the folder where they are shown.
    """

    severity: Severity
    text: str
    advice: str = ""
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One thing that is looked at, and judged by what is seen alone.

    Attributes:
        id: Its name, which does not change from version to version.
        look: Returns the facts of this machine.
        judge: Returns what such facts mean, of this machine or another.
        slow: Whether it takes more than a few seconds; `--quick` leaves it out.
    """

    id: str
    look: Callable[[], Facts]
    judge: Callable[[Facts], Verdict]
    slow: bool = False


@dataclass(frozen=True)
class Finding:
    """The verdict of a check, with the facts that it is about.

    Attributes:
        id: Name of the check.
        severity: See `Verdict`, as the next three.
        text: The finding.
        advice: What to do about it.
        commands: Commands that do it.
        facts: What was seen.
    """

    id: str
    severity: Severity
    text: str
    advice: str
    commands: tuple[str, ...]
    facts: Facts


def examine(check: Check) -> Finding:
    """Return what a check finds on this machine; a check that fails itself is a warning."""
    facts: Facts = {}
    try:
        facts = check.look()
        verdict = check.judge(facts)
    except Exception as error:  # a broken machine may break any check, and the others are still of use
        words = " ".join(f"{type(error).__name__}: {error}".split())
        verdict = Verdict("warning", f"could not be checked ({words})")
    return Finding(check.id, verdict.severity, verdict.text, verdict.advice, verdict.commands, facts)


def examine_all(checks: Iterable[Check], quick: bool = False) -> list[Finding]:
    """Return the findings of all checks, or of the quick ones alone; the mildest come first."""
    found = [examine(check) for check in checks if not (quick and check.slow)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 1 if a finding is an error, otherwise 0."""
    return int(any(finding.severity == "error" for finding in findings))


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings in a form that stays: later versions may add keys and findings, and take none away."""
    return {
        "version": 1,
        "shardtower": __version__,
        "exit_code": exit_code(findings),
        "counts": counts(findings),
        "findings": [asdict(finding) for finding in findings],
    }


def as_text(findings: Sequence[Finding]) -> str:
    """Return findings as lines of at most 80 columns, with advice below each and their counts at the end."""
    lines = [line for finding in findings for line in _lines(finding)]
    found = [
        format_count(number, severity) for severity, number in counts(findings).items() if severity != "ok"
    ]
    return "\n".join([*lines, "", f"{counts(findings)['ok']} ok, {', '.join(found)}"])


def counts(findings: Sequence[Finding]) -> dict[Severity, int]:
    """Return the number of findings of each severity."""
    return {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.severity:<9}{finding.id:<15}"
    lines = _wrapped(f"{head}{finding.text}", INDENT)
    if finding.advice:
        end = ":" if finding.commands else "."
        lines += _wrapped(f"{' ' * INDENT}{finding.advice.rstrip('.:')}{end}", INDENT)
    for command in finding.commands:
        # A backslash at the end of a line lets the shell read on.
        pieces = _wrapped(f"{' ' * COMMAND_INDENT}{command}", COMMAND_INDENT + 2, width=78)
        lines += [f"{piece} \\" for piece in pieces[:-1]] + pieces[-1:]
    return lines


def _wrapped(text: str, indent: int, width: int = 80) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
