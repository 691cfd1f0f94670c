"""`report` from the command line."""

from pathlib import Path

import pytest

from tests import worlds
from trainer.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkerboard")
    return worlds.trained(folder, *worlds.options(folder, *worlds.checkerboard()), "--run.epochs", "2")


def test_the_command_names_the_file_and_its_size(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "my page.html")]) == 0
    size = (tmp_path / "my page.html").stat().st_size
    assert capsys.readouterr().out == f"Report: {tmp_path / 'my page.html'} ({size / 1000:.0f} kB)\n"


def test_a_training_ends_by_naming_the_command(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "two words"
    folder.mkdir()
    worlds.trained(folder, *worlds.options(folder, *worlds.checkerboard()), "--run.epochs", "1")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"All of it on one page: python -m trainer report '{folder / 'run'}'"


def test_bad_input_is_one_line(run: Path, tmp_path: Path, capsys) -> None:
    for arguments in (
        [],
        [str(tmp_path / "none")],
        [str(run), "--colour", "size"],
        [str(run), "--model.dim", "4"],
    ):
        assert main(["report", *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
