"""A module that is imported under two names exists twice, and its classes are not the same ones."""

import sys

from tests.distributed import ranks
from tests.distributed.launches import ROOT


def test_one_run_of_the_tests_imports_each_of_their_modules_under_one_name() -> None:
    # pytest has imported all modules of the run by now: the whole suite's where the whole suite runs.
    names: dict[str, list[str]] = {}
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None)
        if file and file.startswith(str(ROOT / "tests")):
            names.setdefault(file, []).append(name)
    assert ranks.__file__ in names
    assert {file: each for file, each in names.items() if len(each) > 1} == {}
