"""Write down what every case gives now, or only say which differ.

python -m tests.golden.record [--check]
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.golden import cases, produce

HERE = Path(__file__).parent
MACHINE = HERE / "recorded_on.json"
RTOL = 1e-4
"""How far losses and metrics may be off on another machine or with other versions of the libraries."""
GROUPS = ("trainings", "readings", "plans", "plan_texts", "help", "errors")
"""Folders of recorded files: a case each, JSON or text."""


def on_the_same_machine() -> bool:
    """Whether the last digits of floats are to be as they were recorded."""
    return json.loads(MACHINE.read_text()) == produce.machine()


def training_cases(ranks: int) -> list[str]:
    """Names of the trainings that are recorded at so many ranks."""
    return [name for name, case in cases.TRAININGS.items() if ranks in case.ranks]


def file_of(group: str, name: str, value: Any) -> Path:
    """Where a value stands, JSON or text."""
    return HERE / group / (f"{name}.txt" if isinstance(value, str) else f"{name}.json")


def as_text(value: Any) -> str:
    """A text as it is, or JSON in which what is short stands on a line, and the rest an entry a line."""
    return value if isinstance(value, str) else _json(value, "") + "\n"


def _json(value: Any, indent: str) -> str:
    whole = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(whole) <= 100 or not isinstance(value, (list, dict)):
        return whole
    inner = indent + " "
    if isinstance(value, list):
        entries = [_json(entry, inner) for entry in value]
        opening, closing = "[]"
    else:
        entries = [f"{json.dumps(key)}: {_json(entry, inner)}" for key, entry in value.items()]
        opening, closing = "{}"
    return f"{opening}\n{inner}" + f",\n{inner}".join(entries) + f"\n{indent}{closing}"


def differences(recorded: Any, found: Any, rtol: float = 0.0, place: str = "") -> Iterator[str]:
    """A line for each value that is not as it was recorded.

    Args:
        rtol: how far a float may be off, as a share of the larger one.
        place: of the values in what is compared.
    """
    if isinstance(recorded, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*recorded, *found]):
            inner = f"{place}.{key}" if place else key
            if key not in recorded or key not in found:
                yield f"{inner}: only {'found' if key in found else 'recorded'}"
            else:
                yield from differences(recorded[key], found[key], rtol, inner)
    elif isinstance(recorded, list) and isinstance(found, list):
        if len(recorded) != len(found):
            yield f"{place}: {len(recorded)} entries recorded, {len(found)} found"
        for index, (one, other) in enumerate(zip(recorded, found, strict=False)):
            yield from differences(one, other, rtol, f"{place}[{index}]")
    elif isinstance(recorded, float) and isinstance(found, float) and rtol:
        if not math.isclose(recorded, found, rel_tol=rtol):
            yield f"{place}: {recorded!r} recorded, {found!r} found, which is off by more than {rtol}"
    elif recorded != found:
        yield f"{place}: {recorded!r} recorded, {found!r} found"


def all_values(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Group, name and value of every case."""
    for ranks in (1, 3):
        said = produce.trained(folder / str(ranks), ranks, training_cases(ranks))
        for name in training_cases(ranks):
            run = folder / str(ranks) / "runs" / name
            if not (run / "metrics.json").is_file():
                sys.exit(f"{said}\n{name} at {ranks} ranks has not ended")
            yield "trainings", f"{name}.{ranks}", produce.training(run)
    for name in cases.READINGS:
        yield "readings", name, produce.reading(name, folder / "1")
    plans, errors = folder / "plans", folder / "errors"
    for place in (plans, errors):
        place.mkdir()
    for name in cases.PLANS:
        yield "plans", name, produce.shown(produce.plan(name, plans, "--json"))
    for name in cases.PLAN_TEXTS:
        yield "plan_texts", name, produce.shown(produce.plan(name, plans))
    yield "plan_texts", "compared", produce.shown(produce.compared(plans))
    for command in cases.COMMANDS:
        yield "help", command, produce.shown(produce.run_command([command, "--help"], plans))
    produce.lay_out_for_errors(errors)
    for name in cases.ERRORS:
        yield "errors", name, produce.error(name, errors)


def main() -> int:
    """Record, or with `--check` compare; exit code 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say which files differ")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as temporary:
        values = list(all_values(Path(temporary)))
    found = {file_of(group, name, value): as_text(value) for group, name, value in values}
    found[MACHINE] = as_text(produce.machine())
    existing = {path for group in GROUPS for path in (HERE / group).glob("*")}
    differ = [path for path, text in found.items() if not path.is_file() or path.read_text() != text]
    gone = sorted(existing - found.keys())
    for words, paths in (("differs", differ), ("is no longer a case", gone)):
        for path in paths:
            print(f"{path.relative_to(HERE)} {words}")
    if check:
        return 1 if differ or gone else 0
    for group in GROUPS:
        shutil.rmtree(HERE / group, ignore_errors=True)
        (HERE / group).mkdir()
    for path, text in found.items():
        path.write_text(text)
    print(f"{len(found)} files, {sum(path.stat().st_size for path in found):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
