"""The commands' outer behaviour: exit codes, one line on error, and quick answers."""

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import worlds
from trainer import cli
from trainer.cli import main
from trainer.commands.recommend import terminal_width
from trainer.config.parser import read_config
from trainer.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkerboard")
    return worlds.trained(folder, *worlds.options(folder, *worlds.checkerboard()))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The single line that a faulty command leaves on the standard error stream."""
    capsys.readouterr()
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err.removeprefix("error: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "trian: no such command. Did you mean train?"),
        (["zzz"], "zzz: no such command. Commands: train, plan, prepare, evaluate, recommend"),
        (["--run.epoch", "3"], "--run.epoch: no such option. Did you mean --run.epochs?"),
        (["train", "--run.epochs", "x"], "--run.epochs x: expected a whole number"),
        (["prepare", "--data.k_core", "-1"], "--data.k_core -1: a whole number from 0 up is needed"),
        (["evaluate"], "the following arguments are required: RUN"),
        (["evaluate", "nowhere"], "nowhere: no run folder (it has no config.yaml)"),
        (["evaluate", "nowhere", "--k", "5,x"], "'5,x': whole numbers from 1 up are needed"),
        (["evaluate", "nowhere", "--k", "0"], "'0': whole numbers from 1 up are needed"),
        (["evaluate", "nowhere", "--seen", "no"], "invalid choice: 'no'"),
        (["recommend", "nowhere"], "one of the arguments --user --history --attributes"),
        (["recommend", "nowhere", "--user", "1", "--history", "2"], "not allowed with argument --user"),
        (["recommend", "nowhere", "--history", ","], "',': ids of items are needed, as 12,7"),
        (["recommend", "nowhere", "--history", "1"], "nowhere: no run folder (it has no config.yaml)"),
        (["recommend", "nowhere", "--history", "1", "-k", "0"], "-k 0: a whole number from 1 up is needed"),
        (["recommend", "nowhere", "--user", "1"], "nowhere: no run folder (it has no config.yaml)"),
        (["recommend", "nowhere", "--user", "1", "-k", "0"], "-k 0: a whole number from 1 up is needed"),
        (["train", "--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(capsys, arguments: list[str], words: str) -> None:
    assert words in refused(capsys, *arguments)


def test_a_missing_data_file_is_named(capsys, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.parquet"
    arguments = ["--data.name", "files", "--data.interactions", str(path), "--data.cache", str(tmp_path)]
    for command in ("train", "prepare"):
        assert refused(capsys, command, *arguments).startswith(f"--data.interactions {path}: no such file")


def test_prepare_tells_what_it_made_of_a_file_also_when_that_was_done_before(capsys, tmp_path: Path) -> None:
    path = tmp_path / "likes.csv"
    path.write_text("user_id;item_id\n" + "u1;1\n2;2\n3;1\n4;2\n" + "user_id;item_id\n")
    arguments = ["--data.name", "files", "--data.interactions", str(path), "--data.cache", str(tmp_path)]
    for _ in range(2):
        assert main(["prepare", *arguments]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        for note in (
            f"{path}: fields are taken to be separated by semicolon.",
            f"{path}: 1 line that repeats the header was left out.",
            "user_id: 3 of 4 ids are whole numbers and the others texts, such as u1; all are taken as texts.",
        ):
            assert note in printed


def test_an_interruption_has_its_own_exit_code_and_no_traceback(capsys, monkeypatch) -> None:
    def interrupt(arguments: list[str], heading: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.commands.train.run", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: list[str], heading: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("trainer.commands.train.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["train"])


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["train", "--help"], ["prepare", "--help"]])
def test_help_names_every_command_and_option(capsys, arguments: list[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in cli.COMMANDS)
    assert "--optimizer.learning_rate" in text


@pytest.mark.parametrize("command", ["evaluate", "recommend"])
def test_every_other_command_has_help_too(capsys, command: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "RUN" in capsys.readouterr().out


def test_the_printed_configuration_is_one_that_can_be_read(capsys, tmp_path: Path) -> None:
    assert main(["train", "--print_config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert read_config(tmp_path / "printed.yaml") == Config()
    assert main(["--config", str(tmp_path / "printed.yaml"), "--model.dim", "64", "--print_config"]) == 0
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    assert read_config(tmp_path / "again.yaml").model.dim == 64


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--help", "data"], ["--version"], ["--print_config"], ["--run.epoch", "3"], ["evaluate"]],
)
def test_help_and_mistakes_answer_without_importing_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from trainer.cli import main; main(sys.argv[1:]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchrec', 'pandas', 'pyarrow', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True)
    assert done.returncode == 0


def test_the_module_ends_with_the_exit_code_and_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "--run.epoch", "3"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: --run.epoch: no such option. Did you mean --run.epochs?\n"


def test_a_training_with_layers_has_nothing_to_say_on_stderr(tmp_path: Path) -> None:
    options = [
        *("--data.name", "synthetic", "--data.synthetic_users", "50", "--data.synthetic_items", "30"),
        *("--data.synthetic_interactions", "400", "--model.dim", "8", "--model.hidden", "[8]"),
        *("--run.epochs", "1", "--run.choose", "false", "--run.tensorboard", "false", "--device", "cpu"),
        *("--data.cache", str(tmp_path / "cache"), "--run.dir", str(tmp_path / "run")),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *options], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("k", ["-k", "--k"])
def test_recommend_prints_a_heading_and_a_line_an_item(capsys, run: Path, k: str) -> None:
    capsys.readouterr()
    assert main(["recommend", str(run), "--user", "1001", k, "3", "--mark", "test"]) == 0
    heading, *lines, legend = capsys.readouterr().out.splitlines()
    assert heading.split() == ["rank", "item", "score", "test"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    # The diagonal of the first user is held out.
    assert [line.split()[1] for line in lines if line.endswith("*")] == [lines[0].split()[1]] == ["51"]
    assert legend == "* in the test split: 1 of the 1 that the user has there"


@pytest.mark.parametrize(("terminal", "width"), [(True, 30), (False, None)])
def test_recommend_asks_the_terminal_for_its_width(monkeypatch, capsys, terminal: bool, width) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert terminal_width() == width


def test_options_are_never_abbreviated(capsys, run: Path) -> None:
    person = ["recommend", str(run), "--user", "1001"]
    assert "unrecognized arguments: --keep" in refused(capsys, *person, "--keep")
    assert "--js: an evaluation has no such option" in refused(capsys, "evaluate", str(run), "--js")
    assert "--worl: no such option" in refused(capsys, "plan", "--worl", "4")


TITLES = "item_id,title\n51,Amélie\n52,東京\n53,plain\n"


@pytest.mark.parametrize(
    ("encoding", "title"), [("ascii", "Am?lie"), ("latin-1", "Amélie"), ("utf-8", "Amélie")]
)
def test_characters_that_the_output_cannot_hold_are_replaced(
    tmp_path: Path, encoding: str, title: str
) -> None:
    (tmp_path / "items.csv").write_text(TITLES, encoding="utf-8")
    pairs = "user_id,item_id\n1,53\n1,54\n2,51\n2,52\n2,53\n3,51\n3,52\n3,54\n"
    (tmp_path / "pairs.csv").write_text(pairs)
    options = ["--data.name", "files", "--data.format", "csv", "--data.cache", str(tmp_path / "cache")]
    for table, file in (("interactions", "pairs.csv"), ("items", "items.csv")):
        options += [f"--data.{table}", str(tmp_path / file)]
    run = worlds.trained(tmp_path, *options, "--run.epochs", "1", "--run.choose", "false")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}

    def answer(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "trainer", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, env=environment)

    done = answer("recommend", str(run), "--user", "1", "--keep-seen")
    assert (done.returncode, done.stderr) == (0, b"")
    assert {line.split()[2] for line in done.stdout.decode(encoding).splitlines()} > {title, "plain"}
    refusal = answer("recommend", "東京", "--user", "1")
    assert (refusal.returncode, refusal.stderr.count(b"\n")) == (2, 1)


def test_a_printed_command_can_be_pasted_into_a_shell(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "my runs (1)"
    folder.mkdir()
    train, withheld = worlds.checkerboard()
    options = worlds.options(folder, train, withheld, lambda number: f"-x {number}")
    run = worlds.trained(folder, *options, "--run.epochs", "1")
    *_, command = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python -m")]
    assert shlex.split(command)[3:] == ["recommend", str(run), "--user=-x 1001"]
    assert main(shlex.split(command)[3:]) == 0


def test_recommend_prints_json(capsys, run: Path) -> None:
    capsys.readouterr()
    assert main(["recommend", str(run), "--user", "1001", "-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["user"] == "1001"
    assert [sorted(item) for item in found["items"]] == [["item", "score", "title"]] * 3
    assert 51 not in [item["item"] for item in found["items"]]
    assert main(["recommend", str(run), "--user", "1001", "--mark", "test", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [sorted(item) for item in found["items"]] == [["item", "score", "test", "title"]] * 5
    assert found["items"][0]["item"] == 51


def test_recommend_takes_a_history_in_place_of_a_user(capsys, run: Path) -> None:
    capsys.readouterr()
    assert main(["recommend", str(run), "--history", "53,55,57", "-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["history", "items"]
    assert found["history"] == ["53", "55", "57"]
    assert [sorted(item) for item in found["items"]] == [["item", "score", "title"]] * 3
    assert found["items"][0]["item"] == 51  # what is left of the colour
    assert main(["recommend", str(run), "--history", "53,55,57", "-k", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1] == "51"


def test_a_history_of_unknown_items_is_one_line_that_names_them(capsys, run: Path) -> None:
    message = refused(capsys, "recommend", str(run), "--history", "9,x")
    assert message.startswith(f"--history 9, x: not among the 8 items of {run} (such as ")
    assert message.endswith("and no other is given. Name one of these")


def test_an_unknown_user_is_one_line_with_examples(capsys, run: Path) -> None:
    message = refused(capsys, "recommend", str(run), "--user", "9")
    assert message.startswith(f"--user 9: not among the 16 users of {run} (such as 1001, 1002, 1003)")


def test_evaluate_prints_a_table_or_json(capsys, run: Path) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "-k", "1,3"]) == 0
    text = capsys.readouterr().out
    assert "16 users, 8 items, seen items masked" in text
    assert main(["evaluate", str(run), "--k", "1,3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["recall@1"] == 1
    assert found["model"]["precision@3"] == pytest.approx(1 / 3)


def test_evaluate_says_that_a_split_is_empty(capsys, run: Path) -> None:
    assert "the validation split holds no interactions" in refused(
        capsys, "evaluate", str(run), "--split", "validation"
    )


def test_a_disk_that_cannot_be_written_to_is_one_line(monkeypatch, capsys) -> None:
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/plan.json")

    monkeypatch.setattr("trainer.training.train.train", full)
    assert main(["train", "--data.name", "synthetic"]) == 2
    expected = (
        "error: runs/x/plan.json: cannot be written (No space left on device). Make room there, or name "
    )
    assert capsys.readouterr().err == f"{expected}another folder\n"


def test_a_file_that_may_not_be_read_is_not_called_one_that_cannot_be_written(
    monkeypatch, capsys, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("user_id,item_id\n")

    def forbidden(_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("trainer.dataset.prepare.prepare_data", forbidden)
    monkeypatch.setattr(os, "access", lambda place, mode: not (place == str(path) and mode == os.R_OK))
    assert main(["prepare", "--data.name", "synthetic"]) == 2
    expected = f"error: {path}: cannot be read (Permission denied). Allow reading it, or name another file\n"
    assert capsys.readouterr().err == expected
