"""The shell scripts as a linter reads them."""

import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_any_script() -> None:
    assert {"multi_node.sh", "slurm.sbatch"} <= {script.name for script in SCRIPTS}
    done = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_is_bash_that_stops_at_an_error_and_says_first_what_it_does(script: Path) -> None:
    shebang, purpose, *rest = script.read_text().splitlines()
    assert shebang == "#!/usr/bin/env bash"
    assert purpose.startswith("# ")
    assert "set -euo pipefail" in rest


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "no job of Slurm"),
        ({"SLURM_JOB_ID": "7"}, "SHARDTOWER_RUN is '', expected the folder of the run"),
    ],
)
def test_the_slurm_script_outside_a_job_or_without_a_run_is_one_line(
    variables: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch"],
        env={"PATH": "/usr/bin:/bin"} | variables,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
