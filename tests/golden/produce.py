"""Run the cases and return what is to be recorded of each, as JSON values or text.

Trainings run in processes of their own with a single thread: this module is the program of a rank.
"""

import contextlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.distributed import launches
from tests.golden import cases
from trainer.cli import main

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PACKAGES = ("torch", "torchrec", "numpy", "scipy")
PROGRAM = "tests.golden.produce"
TIMES = ("examples_per_second", "memory_mib", "seconds", "training_seconds")
"""Keys of records and reports that differ from one training to the next."""


def machine() -> dict[str, str]:
    """What the last digits of losses and metrics depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    found = {name: version(name) for name in PACKAGES}
    return {
        **found,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "cpu": model or platform.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it wrote, with `<folder>` for the folder that it worked in."""

    code: int
    out: str
    err: str


def run_command(arguments: Sequence[str], folder: Path) -> Outcome:
    """A command in this process, in a folder, with lines of 100 characters."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {"COLUMNS": "100"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(list(arguments))
        except SystemExit as end:  # as argparse ends after its help
            code = int(end.code or 0)
    texts = (stream.getvalue().replace(str(folder), "<folder>") for stream in (out, err))
    return Outcome(code, *texts)


def trained(folder: Path, ranks: int, names: Sequence[str]) -> str:
    """Train these cases one after another, each into its own folder of `folder/runs`; what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    if ranks > 1:
        # The launcher's words are the first ones of each training's command line, see `train_as_a_rank`.
        with mock.patch.dict(os.environ, ONE_THREAD | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"}):
            launched = launches.start(folder, " ".join(names), f"-m {PROGRAM}", launches.RANKS, ranks)
        return "".join(launches.end(launched, seconds=240))
    words = [sys.executable, "-m", PROGRAM, "train", "--device", "cpu", "--data.cache", "cache", *names]
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(launches.ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def train_as_a_rank(words: Sequence[str], names: Sequence[str]) -> int:
    """Train these cases in this process, which is one of the ranks; the worst exit code.

    Args:
        words: with which each command line begins.
    """
    torch.set_num_threads(1)
    codes: list[int] = []

    def train(*options: str) -> None:
        # As if ranks were started again, so that they do not meet at the addresses of the training before.
        with mock.patch.dict(os.environ, {"TORCHELASTIC_RESTART_COUNT": str(len(codes))}):
            codes.append(main([*words, *cases.SHORT.split(), *options]))

    for name in names:
        case, run = cases.TRAININGS[name], f"runs/{name}"
        options = [*case.options.split(), "--run.dir", run]
        if case.origin is not None:
            train(*case.origin.split(), "--run.dir", f"{run}-origin")
            options += ["--from", f"{run}-origin"]
        train(*options)
        if case.resumed:
            if os.environ.get("RANK", "0") == "0":
                _cut_back(Path(run))
            train(*options)
    return max(codes)


def _cut_back(run: Path) -> None:
    """Leave of a finished run what one has that was killed behind its first checkpoint."""
    (run / "metrics.json").unlink()
    for checkpoint in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)


def training(run: Path) -> dict[str, Any]:
    """Losses, validation records and metrics of a finished run, without what differs from time to time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records = [_without_times(line) for line in lines]
    report = (run / "metrics.json").read_text().replace(f"{run.parents[1]}/", "")
    return {
        "losses": [record["loss"] for record in records if "loss" in record],
        "learning_rates": [record["learning_rate"] for record in records if "learning_rate" in record],
        "validations": [record for record in records if "loss" not in record],
        "metrics": _without_times(json.loads(report)),
    }


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def reading(name: str, folder: Path) -> Any:
    """What a command prints that reads the runs of trainings in this folder."""
    runs = {"RUN": f"runs/{cases.RUN}", "OTHER": f"runs/{cases.OTHER}"}
    command = [runs.get(word, word) for word in cases.READINGS[name].split()]
    return shown(run_command(command, folder))


def shown(outcome: Outcome) -> Any:
    """The JSON value that a command printed, or all that it wrote, with its exit code if that is not 0."""
    if outcome.code == 0 and outcome.out.startswith("{"):
        return json.loads(outcome.out)
    return outcome.out + outcome.err + (f"exit code {outcome.code}\n" if outcome.code else "")


def plan(name: str, folder: Path, *options: str) -> Outcome:
    """A plan under its options and more."""
    return run_command(["plan", *cases.PLANS[name].split(), "--data.cache", "cache", *options], folder)


def compared(folder: Path) -> Outcome:
    """The text of a plan beside a saved one."""
    shown, saved = cases.COMPARED
    plan(saved, folder, "--save", "saved.json")
    return plan(shown, folder, "--compare", "saved.json")


def lay_out_for_errors(folder: Path) -> None:
    """Fill a folder with the files and the run that failing commands meet."""
    for name, text in cases.FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    words = ["train", *cases.SHORT.split(), "--run.epochs", "1", "--run.dir", "run"]
    ended = run_command([*words, "--data.cache", "cache", "--device", "cpu"], folder)
    assert ended.code == 0, ended.err


def error(name: str, folder: Path) -> str:
    """Exit code and text of a command that fails."""
    found = run_command(cases.ERRORS[name].split(), folder)
    return f"exit code {found.code}\n{found.err}"


if __name__ == "__main__":
    sys.exit(train_as_a_rank(sys.argv[1:6], sys.argv[6:]))
