"""Versions and wrong builds, told by the metadata of what is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer import installation
from trainer.cli import main
from trainer.installation import CPU_BUILD, CUDA_BUILD, installation_fault

ROOT = Path(__file__).resolve().parents[1]
GOOD = {
    "torch": "2.13.0+cpu",
    "torchrec": "1.8.0",
    CPU_BUILD: "1.8.0",
    "numpy": "2.4.6",
    "pandas": "3.0.1",
    "pyarrow": "26.0.0",
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({CUDA_BUILD: "1.8.0"}, "fbgemm-gpu 1.8.0 (CUDA) and fbgemm-gpu-cpu 1.8.0 are installed over each"),
        (
            {CPU_BUILD: None, CUDA_BUILD: "1.8.0"},
            "fbgemm-gpu 1.8.0 needs CUDA, and torch 2.13.0+cpu has none",
        ),
        ({CPU_BUILD: None, CUDA_BUILD: "1.8.0", "torch": "2.13.0"}, None),
        ({CPU_BUILD: None}, "neither fbgemm-gpu-cpu nor fbgemm-gpu is installed"),
        ({"numpy": "1.26.4"}, "numpy 1.26.4 is installed, expected 2 or newer"),
        ({"torchrec": None}, "torchrec is not installed"),
        ({"torchrec": "1.9.2"}, "torchrec 1.9.2 is installed, but 1.8 belongs to torch 2.13.0+cpu"),
        ({"torch": "2.14.1"}, "torchrec 1.8.0 is installed, but 1.9 belongs to torch 2.14.1"),
        ({"torch": "2.14.1", "torchrec": "1.9.2", CPU_BUILD: "1.9.0"}, None),
        ({"torch": "2.130.0"}, None),
    ],
)
def test_builds_that_cannot_work_together_are_named_with_a_remedy(changed, words, monkeypatch) -> None:
    found = {name: number for name, number in (GOOD | changed).items() if number}
    monkeypatch.setattr(
        installation, "_versions", lambda *names: {name: found[name] for name in names if name in found}
    )
    fault = installation_fault()
    if words is None:
        assert fault is None
    else:
        assert fault is not None
        assert fault.startswith(words)
        assert fault.endswith("bash launch/setup.sh")


def test_packages_without_metadata_are_named_only_where_an_import_has_failed(monkeypatch) -> None:
    monkeypatch.setattr(installation, "_versions", lambda *names: {"numpy": "2.4.6"})
    assert installation_fault(missing=False) is None
    assert installation_fault() == (
        "torch and torchrec are not installed: this installation opens exports alone; "
        "to train, run in a checkout: bash launch/setup.sh"
    )


def test_versions_are_printed(capsys) -> None:
    assert main(["--version"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines[:4]] == ["shardtower", "Python", "torch", "torchrec"]
    assert lines[4][0] in (CPU_BUILD, CUDA_BUILD)
    assert all(number[0].isdigit() for _, number in lines)


FAKES = {
    # What the CUDA build does beside a torch without CUDA, and pyarrow beside an old numpy.
    "fbgemm_gpu": ("fbgemm_gpu-1.8.0", "raise OSError('Could not load this library: fbgemm_gpu_config.so')"),
    "numpy": ("numpy-1.26.4", "raise ImportError('pyarrow requires NumPy 2.0 or newer')"),
}


@pytest.mark.parametrize("package", FAKES)
def test_wrong_builds_are_one_line_and_exit_code_2(package: str, tmp_path: Path) -> None:
    name, source = FAKES[package]
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(source)
    (tmp_path / f"{name}.dist-info").mkdir()
    distribution, _, number = name.partition("-")
    (tmp_path / f"{name}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution.replace('_', '-')}\nVersion: {number}\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "trainer",
            "train",
            "--data.name",
            "synthetic",
            "--run.dir",
            str(tmp_path / "run"),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert number in done.stderr
    assert not (tmp_path / "run").exists()
