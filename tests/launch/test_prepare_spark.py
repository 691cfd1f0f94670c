"""The script of the Spark job: what it says where something is missing, and a call from the shell."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.spark.session import interactions, needs_spark

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "prepare_spark.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_spark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_where_pyspark_is_missing_one_line_says_how_to_install_it(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    assert script.main(["--data.name", "synthetic"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: prepare_spark needs pyspark")
    assert error.endswith("Install it: pip install 'pyspark>=4.0'\n")


@pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed")
def test_where_java_is_missing_one_line_says_what_to_install(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert script.main(["--data.name", "synthetic"]) == 2
    assert capsys.readouterr().err == (
        f"error: prepare_spark needs Java 17 or newer, and {tmp_path}/bin/java is not there. Install it "
        "(such as apt-get install openjdk-17-jre-headless), or name its folder in JAVA_HOME\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data.negatives", "use", "--data.min_value", "4"],
            "--data.negatives use: prepare_spark writes no",
        ),
        (
            ["--data.name", "files", "--data.interactions", "s3://b/log"],
            "--data.interactions s3://b/log: executors read files. Name a folder that all of them see",
        ),
    ],
)
def test_what_the_job_does_not_do_is_refused_before_spark_starts(
    script: ModuleType, capsys: pytest.CaptureFixture, options: list[str], message: str
) -> None:
    assert script.main(options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_buckets_need_a_folder(script: ModuleType, capsys: pytest.CaptureFixture) -> None:
    assert script.main(["--data.name", "synthetic", "--user-buckets", "4"]) == 2
    assert "--user-buckets N and --out FOLDER go together" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--data.negatives", "use", "--data.min_value", "2"], []], ids=str)
def test_the_script_prepares_as_prepare_does(tmp_path: Path, options: list[str]) -> None:
    for mark in needs_spark():
        if mark.name == "skipif" and mark.args[0]:
            pytest.skip(mark.kwargs["reason"])
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(interactions(400), path)
    data = ["--data.name", "files", "--data.interactions", str(path), "--data.cache", "cache", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    outputs = []
    for command in ([str(SCRIPT)], ["-m", "trainer", "prepare"]):
        done = subprocess.run(
            [sys.executable, *command, *data], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        outputs.append(done.stdout)
        if options:
            assert done.returncode == 2
            assert "error: --data.negatives use: prepare_spark writes no explicit negatives" in done.stderr
            return
        assert done.returncode == 0, done.stderr
    assert outputs[0] == outputs[1]  # the second finds the folder of the first
