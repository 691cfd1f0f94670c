"""`doctor` on this machine, and on the same with broken libraries, too many builds, or too little room."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.doctor.software import judge_builds, judge_packages, look_packages
from trainer.installation import CPU_BUILD, CUDA_BUILD

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = {"id", "severity", "text", "advice", "commands", "facts"}


def doctor(*options: str, before: str = "", folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command as a process in a folder, with another one before all others on the path."""
    paths = os.pathsep.join(filter(None, [before, str(ROOT)]))
    return subprocess.run(
        [sys.executable, "-m", "trainer", "doctor", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def by_id(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["id"]: finding for finding in report["findings"]}


def test_this_machine_which_runs_the_tests_can_train() -> None:
    done = doctor("--quick", "--json")
    report = json.loads(done.stdout)
    found = by_id(report)
    assert report["version"] == 1
    assert all(set(finding) == SCHEMA for finding in report["findings"])
    assert sum(report["counts"].values()) == len(found)
    assert {found[name]["severity"] for name in ("python", "packages", "builds", "imports", "cpu")} == {"ok"}
    assert not {"kernels", "ranks_gloo", "ranks_nccl"} & set(found)
    assert found["imports"]["facts"]["torch"]["gloo"]
    assert done.returncode == report["exit_code"] == int(report["counts"]["error"] > 0)


def test_a_torchrec_that_cannot_be_imported_is_named_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "torchrec").mkdir()
    (tmp_path / "torchrec/__init__.py").write_text("raise ImportError('undefined symbol: _ZN2at')")
    done = doctor("--json", before=str(tmp_path), folder=tmp_path)
    found = by_id(json.loads(done.stdout))
    assert done.returncode == 1, done.stderr
    assert found["imports"]["severity"] == "error"
    assert found["imports"]["text"].startswith(
        "torchrec cannot be imported: ImportError: undefined symbol: _ZN2at."
    )
    assert str(tmp_path / "torchrec/__init__.py") in found["imports"]["advice"]
    assert found["kernels"]["text"] == "not tried, as a library cannot be imported; see imports"
    assert found["ranks_gloo"]["severity"] == "ok"  # torch itself is whole, and gloo is torch's
    assert found["packages"]["severity"] == "ok"


def test_both_builds_of_fbgemm_are_seen_by_their_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (CPU_BUILD, CUDA_BUILD):
        folder = tmp_path / f"{name.replace('-', '_')}-1.6.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.6.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    facts = look_packages()
    assert (facts[CPU_BUILD], facts[CUDA_BUILD]) == ("1.6.5", "1.6.5")
    verdict = judge_builds(facts | {"torch": "2.11.0+cpu"})
    assert verdict.severity == "error"
    assert verdict.text.startswith("fbgemm-gpu 1.6.5 (CUDA) and fbgemm-gpu-cpu 1.6.5 are installed over each")
    assert verdict.commands == (
        f"{sys.executable} -m pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu",
        f"{sys.executable} -m pip install --no-deps 'torchrec==1.6.*' 'fbgemm-gpu-cpu==1.6.*'",
    )
    assert judge_packages(facts | {"torch": "2.14.1"}).severity == "error"


NAMESPACE = ["unshare", "-m", "sh", "-c"]
LOOK = """
import json
from trainer.doctor.storage import *
found = [judge_shared_memory(look_shared_memory()), judge_disk(look_disk(runs()))]
print(json.dumps([[each.severity, each.text, each.commands] for each in found]))
"""


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode != 0,
    reason="this user may not mount",
)
def test_little_shared_memory_and_a_nearly_full_disk_are_seen_where_they_are(tmp_path: Path) -> None:
    script = (
        'mount -t tmpfs -o size=64m tmpfs /dev/shm && mount -t tmpfs -o size=64m tmpfs "$1" && cd "$1" '
        '&& exec "$2" -c "$3"'
    )
    done = subprocess.run(
        [*NAMESPACE, script, "sh", str(tmp_path), sys.executable, LOOK],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    memory, disk = json.loads(done.stdout)
    assert memory[:2] == [
        "warning",
        "/dev/shm: 67.1 MB free of 67.1 MB. Where buffers do not fit (up to 268 MB), ranks of this host "
        "exchange through gloo, which is slower, and NCCL may fail",
    ]
    assert disk == ["error", "runs (runs): 67.1 MB free of 67.1 MB", [f"df -h {tmp_path}"]]


def test_an_option_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--fast"]) == 2
    assert capsys.readouterr().err == (
        "error: python -m trainer doctor: unrecognized arguments: --fast. "
        "See python -m trainer doctor --help\n"
    )


@pytest.mark.slow
def test_all_of_it_in_text() -> None:
    done = doctor()
    lines = done.stdout.splitlines()
    findings = {words[1]: words[0] for words in map(str.split, lines) if len(words) > 1}
    assert findings["kernels"] == findings["ranks_gloo"] == "ok"
    assert "18 should work, and each trains a tiny table by its rule" in " ".join(done.stdout.split())
    assert max(map(len, lines)) <= 80
