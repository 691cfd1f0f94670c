"""What the pages tell readers to type works, where it needs no network, GPU or several ranks."""

import re
import shlex
from pathlib import Path

import pytest

import trainer
from trainer.cli import main
from trainer.config.parser import parse_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("*/*/README.md"))]
MADE_UP = (
    "--data.name synthetic --data.synthetic_users 250 --data.synthetic_items 220 "
    "--data.synthetic_interactions 4000 --model.dim 8 --run.epochs 2 --run.choose false --device cpu"
)
NEEDS_MORE = {
    "python -m trainer plan --world-size 4": "plans the tables of MovieLens 100K",
    "python -m trainer --config configs/notebook.yaml --data.name ml-100k": "trains on MovieLens 100K",
    "python -m trainer --data.split leave_last_out --model.history recency": "trains on MovieLens 100K",
    "python -m trainer recommend runs/ml-100k-softmax-... --user 196": "asks a run on MovieLens 100K",
    "python -m trainer train --config shop.yaml --data.split temporal --run.dir measured": "reads your files",
    "python -m trainer train --from measured --data.split none --run.dir day-1": "goes on from that run",
    "python -m trainer train --from day-1 --run.dir day-2": "goes on from the run after it",
    "python -m trainer serve DIR": "serves until it is stopped",
    "python -m trainer serve DIR --port 0": "serves until it is stopped",
    "python -m trainer recommend RUN --user 7 --interactions today.csv": "reads a file of the user's own",
    "python -m trainer doctor": "takes half a minute, and is run by tests/doctor/test_doctor.py",
    "python -m trainer doctor --json": "the same",
}
"""Commands that need a network, files that are not at hand, or time that another test takes for them."""
REFUSED = (
    "python -m trainer plan --world-size 64 --hardware h100-80g --rows user=2e9 --rows movie=5e7 --dim 128"
)
"""Its tables do not fit, as the page says: it ends with exit code 2 and remedies."""


def blocks(page: Path, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M)
    return [text for kind, text in found if kind == language]


def commands() -> list[str]:
    """Every command of a page's code blocks, without its comment."""
    lines = [line for page in PAGES for block in blocks(page) for line in block.splitlines()]
    found = [re.sub(r"^(\$ )?(\.venv/bin/)?(?=python -m trainer )", "", line) for line in lines]
    return sorted(
        {line.partition(" #")[0].strip() for line in found if line.startswith("python -m trainer ")}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on made-up data, which stands for the runs that pages name."""
    folder = tmp_path_factory.mktemp("pages")
    options = [*MADE_UP.split(), "--data.cache", str(folder / "cache"), "--run.dir", str(folder / "run")]
    assert main(["train", *options]) == 0
    return folder / "run"


def test_there_are_commands_to_be_tried() -> None:
    assert len(commands()) > 12
    assert set(NEEDS_MORE) <= set(commands())


@pytest.mark.parametrize("command", [each for each in commands() if each not in NEEDS_MORE])
def test_a_command_of_a_page_works(command: str, run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = shlex.split(re.sub(r"\bRUN2?\b|runs/NAME", str(run), command))[3:]
    assert main(words) == (2 if command == REFUSED else 0), capsys.readouterr().err


def test_the_example_in_python_works(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    monkeypatch.chdir(tmp_path)
    options = parse_config([*MADE_UP.split(), "--data.cache", str(run.parent / "cache")])
    train = trainer.train
    monkeypatch.setattr(trainer, "train", lambda *_: train(options), raising=False)
    exec(example, {})
    printed = capsys.readouterr().out
    assert "'ndcg@5': 0." in printed
    assert printed.count("score") == 2


def test_the_example_of_a_configuration_can_be_read(tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "example.yaml").write_text(example)
    config = parse_config(["--config", str(tmp_path / "example.yaml")])
    assert (config.data.item_column, config.run.save_every) == ("sku", 500)


def test_every_page_is_short_and_every_file_that_it_links_is_there() -> None:
    for page in PAGES:
        text = page.read_text()
        assert len(text.splitlines()) <= (170 if page.parent == ROOT else 150), page
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert link.startswith("https://") or (page.parent / link).exists(), (page, link)
