"""Options of `serve`: each fault is one line, and limits reach the service."""

import importlib.util
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.service import server
from trainer.service.limits import Limits, processors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: DIR"),
        (["DIR", "--port", "65536"], "argument --port: '65536': a whole number from 0 to 65535 is needed"),
        (["DIR", "--port", "-1"], "argument --port: "),
        (["DIR", "--max-k", "0"], "argument --max-k: '0': a whole number from 1 up is needed"),
        (
            ["DIR", "--max-body", "1 XB"],
            "argument --max-body: '1 XB': a size is needed, as 1MB, 512KiB or 20000",
        ),
        (["DIR", "--timeout", "0"], "argument --timeout: '0': a number of seconds above 0 is needed"),
        (["DIR", "--timeout", "nan"], "argument --timeout: 'nan': seconds from 0 to 86400 are needed"),
        (["DIR", "--workers", "2"], "unrecognized arguments: --workers 2"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(options: list[str], message: str, capsys) -> None:
    assert main(["serve", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: python -m trainer serve: {message}")
    assert error.count("\n") == 1


def test_options_reach_the_service(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(server, "serve", lambda *arguments: asked.append(arguments))
    assert main(["serve", "somewhere"]) == 0
    limits = ["--max-k", "50", "--max-body", "1.5KiB", "--max-batch", "7", "--max-requests", "8"]
    others = ["--timeout", "2.5", "--threads", "3", "--watch", "0", "--host", "::1", "--port", "0"]
    assert main(["serve", "somewhere", *limits, *others, "--api-key-file", "keys"]) == 0
    standard = Limits(1000, 1_000_000, 1000, 64, 10.0, processors())
    assert asked == [
        (Path("somewhere"), "127.0.0.1", 8000, standard, None, 1.0),
        (Path("somewhere"), "::1", 0, Limits(50, 1536, 7, 8, 2.5, 3), Path("keys"), 0.0),
    ]


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch, capsys) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert main(["serve", "somewhere"]) == 2
    message = "error: uvicorn: not installed, and `serve` needs it. Run: pip install "
    assert capsys.readouterr().err.startswith(message)


def test_a_folder_without_an_export_is_refused_before_anything_listens(tmp_path: Path, capsys) -> None:
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "no export" in error
