"""A module that is imported under two names exists twice, and its classes are not the same ones."""

import json
import subprocess
import sys

from tests.distributed.launches import ROOT, environment

COLLECT = """
import json, sys
import pytest
code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests"])
names = {}
for name, module in [*sys.modules.items()]:
    file = getattr(module, "__file__", None)
    if file and file.startswith(sys.argv[1]):
        names.setdefault(file, []).append(name)
print(json.dumps([int(code), names]))
"""


def test_one_run_of_the_tests_imports_each_of_their_modules_under_one_name():
    process = subprocess.run(
        [sys.executable, "-c", COLLECT, str(ROOT / "tests")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    code, names = json.loads(process.stdout.splitlines()[-1])
    assert code == 0, process.stdout[-3000:]
    assert str(ROOT / "tests" / "distributed" / "ranks.py") in names
    assert {file: each for file, each in names.items() if len(each) > 1} == {}
