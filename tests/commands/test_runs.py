"""The list of run folders: what state each is in, without opening any of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import worlds
from trainer.cli import main
from trainer.fitting import loop
from trainer.training import train

TRAIN, WITHHELD = worlds.checkerboard()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs that have come differently far, oldest first."""
    folder = tmp_path_factory.mktemp("runs")
    data = worlds.options(folder, TRAIN, WITHHELD)
    saving = ["--run.save_every", "30"]
    begun = [*data, *worlds.QUICK, "--device", "cpu", "--run.log_every", "10"]
    assert main(["train", *begun, "--run.dir", str(folder / "finished")]) == 0
    for name, module, function, at, more in (
        ("stopped", loop, "train_step", 45, saving),
        ("unsaved", loop, "train_step", 25, []),
        ("chosen", train, "choose", 1, []),
    ):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, module, function, at)
            assert main(["train", *begun, *more, "--run.dir", str(folder / name)]) == 130
    (folder / "no run").mkdir()
    (folder / "no run" / "notes.txt").touch()
    return folder


def interrupt_at(patch: pytest.MonkeyPatch, module, function: str, at: int) -> None:
    calls, work = [], getattr(module, function)

    def counted(*arguments, **named):
        calls.append(function)
        if len(calls) == at:
            raise KeyboardInterrupt
        return work(*arguments, **named)

    patch.setattr(module, function, counted)


def listed(capsys, *arguments: str) -> list[dict]:
    capsys.readouterr()
    assert main(["runs", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_run_is_listed_with_its_state(folder: Path, capsys) -> None:
    found = listed(capsys, str(folder))
    assert {Path(each["run"]).name: (each["state"], each["step"]) for each in found} == {
        "finished": ("finished", 80),  # 16 users in steps of 4, 20 times
        # After 44 steps, of which every tenth is recorded and the 30th is saved.
        "stopped": ("interrupted at step 40, goes on after step 30", 30),
        "unsaved": ("interrupted at step 20, nothing saved", 20),
        "chosen": ("interrupted while choosing, 0 trials finished", None),
    }
    assert {each["data"] for each in found} == {"files interactions.parquet"}
    assert [each["when"] for each in found] == sorted((each["when"] for each in found), reverse=True)


def test_a_run_is_described_by_its_model_and_figures(folder: Path, capsys) -> None:
    (found,) = listed(capsys, str(folder / "finished"))
    assert found["model"] == "softmax 8"
    assert found["metrics"] == worlds.figures(folder / "finished")
    assert main(["runs", str(folder / "finished")]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["run", "when", "data", "model", "figure", "state"]
    figure = found["metrics"]["ndcg@10"]
    assert row.split()[0] == str(folder / "finished")
    assert row.endswith(f"softmax 8  ndcg@10 {figure:.4f}  finished")


def test_a_run_that_a_process_is_at_work_in_is_not_called_interrupted(folder: Path, capsys) -> None:
    holder = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('locked', flush=True); time.sleep(60)"
    )
    lock = folder / "stopped" / ".lock"
    process = subprocess.Popen([sys.executable, "-c", holder, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        (found,) = listed(capsys, str(folder / "stopped"))
        assert found["state"] == "training, step 40"
    finally:
        process.kill()
        process.communicate()
        lock.unlink(missing_ok=True)


def test_files_that_cannot_be_read_leave_gaps(tmp_path: Path, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: [1\n")
    (found,) = listed(capsys, str(tmp_path))
    assert (found["data"], found["model"], found["metrics"]) == ("?", "?", {})


def test_a_folder_without_runs_is_empty_and_an_absent_one_is_refused(tmp_path: Path, capsys) -> None:
    assert listed(capsys, str(tmp_path)) == []
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: no run folders\n"
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'nowhere'}: no such folder")


def test_listing_does_not_import_torch(folder: Path) -> None:
    code = (
        "import sys; from trainer.cli import main; code = main(['runs', sys.argv[1]]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=root).returncode == 0
