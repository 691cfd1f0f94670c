"""Histories as people write them on a command line."""

from pathlib import Path

import pytest

from tests import worlds
from trainer.cli import main
from trainer.serving.history import split_history
from trainer.serving.served_run import open_served

COMMAS = {51: "a,51", 52: "b 52", 53: "53,54", 54: "53", 55: "54"}
"""Ids with a comma and with a space, and one that is two others with a comma between."""


def name(number: int | str) -> str:
    return COMMAS.get(int(number), f"x{number}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commas")
    options = worlds.options(folder, *worlds.checkerboard(), name)
    return worlds.trained(folder, *options, "--run.epochs", "1")


@pytest.mark.parametrize(
    ("texts", "ids"),
    [
        (["x56"], ["x56"]),
        (["x56,b 52"], ["x56", "b 52"]),
        (["a,51"], ["a,51"]),  # known as a whole
        (["x56,a,51"], ["x56", "a", "51"]),
        (['x56,"a,51",,b 52,'], ["x56", "a,51", "b 52"]),
        (['x56, "a,51"'], ["x56", "a,51"]),
        (["x56", "a,51", "x57,x58"], ["x56", "a,51", "x57", "x58"]),
        (["53,54"], ["53,54"]),  # the item of this name, not the two others
        (["54,53"], ["54", "53"]),
    ],
)
def test_commas_separate_ids_unless_these_hold_them(run: Path, texts: list[str], ids: list[str]) -> None:
    assert split_history(open_served(run, 1).catalogue, texts) == ids


def answer(capsys: pytest.CaptureFixture[str], run: Path, *options: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["recommend", str(run), *options])
    return code, *capsys.readouterr()


def test_the_same_history_gives_the_same_list_however_it_is_written(run: Path, capsys) -> None:
    wanted = answer(capsys, run, "--history", '"a,51",b 52', "--json")
    assert wanted[0] == 0
    assert '"history": ["a,51", "b 52"]' in wanted[1]
    for written in (
        ["--history", "a,51", "--history", "b 52"],
        ["--history", '"a,51", b 52 '],
        ["--history=a,51", "--history", " b 52"],
    ):
        assert answer(capsys, run, *written, "--json") == wanted


def test_unknown_ids_are_named_on_stderr_and_in_json(run: Path, capsys) -> None:
    code, out, err = answer(capsys, run, "--history", "x56,x99", "--json", "--k", "1")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("note: --history x99: not among the 8 items of ")
    assert err.endswith(", and left out; 1 of 2 given are known\n")
    assert '"history": ["x56"], "unknown": ["x99"], "items": [' in out


def test_options_of_known_users_are_refused_with_a_history(run: Path, capsys) -> None:
    for option in (["--mark", "test"], ["--interactions", "newer.csv"]):
        code, out, err = answer(capsys, run, "--history", "x56", *option)
        assert (code, out) == (2, "")
        assert f"argument {option[0]}: not allowed with argument --history" in err
