"""The GPU check in its CPU form: its table, its files, and what it says of a part that fails."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.gpu import check

ROOT = Path(__file__).resolve().parents[2]


def test_the_check_runs_without_a_gpu_and_writes_table_json_and_junit(tmp_path: Path) -> None:
    command = [
        "bash",
        "tests/gpu/check.sh",
        "--cpu",
        "--only",
        "optimizers,softmax,two_gpus",
        "--out",
        tmp_path,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 0 failed, 1 skipped" in done.stdout
    assert "adam             data_parallel  largest error" in done.stdout
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert {name: part["state"] for name, part in parts.items()} == {
        "optimizers": "passed",
        "softmax": "passed",
        "two_gpus": "skipped",
    }
    assert parts["optimizers"]["figures"]["error/adagrad/table_wise"] < 1e-5
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "0")


def test_a_part_that_crashes_or_hangs_fails_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # There is no such part to run, and none ends within no time.
    monkeypatch.setattr(check, "PARTS", {"missing": check.Part("nothing", 60), "late": check.Part("x", 0)})
    outcomes = check.check(["missing", "late"], "cpu", gpus=0, folder=tmp_path, limit=60, jobs=1)
    assert [outcome.state for outcome in outcomes] == ["failed", "failed"]
    assert "ended with code 1" in outcomes[0].lines[-1]
    assert "ended after 0 s" in outcomes[1].lines[-1]


def test_every_part_of_the_table_is_a_function() -> None:
    from tests.gpu import correctness, performance

    for name in check.PARTS:
        assert callable(getattr(performance, name, None) or getattr(correctness, name))
