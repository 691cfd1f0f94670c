"""Run folders whose configuration is spelled as in older versions are evaluated, resumed and started from."""

import json
from pathlib import Path

import pytest
import yaml

from tests import worlds
from trainer.cli import main
from trainer.config.parser import read_config
from trainer.runs.checkpoint_store import CONFIG, FOLDER, METRICS, STATE, digest_of, file_digest

TRAIN, WITHHELD = worlds.checkerboard()
NEWER_KEYS = {
    "model": ("history_length", "history_table", "history_decay", "vector_dropout", "hashed_rows"),
    "data": ("order", "impressions", "user_columns", "item_columns"),
}
"""Keys that older versions did not have."""


def seal(checkpoint: Path) -> None:
    """Give a checkpoint the digests of its files as they are now."""
    description = json.loads((checkpoint / STATE).read_text())
    del description["own_sha256"]
    description["files"] = {name: file_digest(checkpoint / name) for name in description["files"]}
    (checkpoint / STATE).write_text(json.dumps(description | {"own_sha256": digest_of(description)}))


@pytest.fixture(params=[True, False])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A finished run whose files say `history: true` or `history: false`, as they did when that was all."""
    history = "bag" if request.param else "none"
    options = "--model.history", history, "--run.epochs", "2", "--run.save_every", "1"
    found = worlds.trained(tmp_path, *worlds.options(tmp_path, TRAIN, WITHHELD), *options)
    files = [found / CONFIG, *found.glob(f"{FOLDER}/*/{CONFIG}")]
    assert len(files) > 1
    for file in files:
        values = yaml.safe_load(file.read_text())
        values["model"]["history"] = request.param
        assert values["batches"]["rows"] == "user"
        for section, keys in NEWER_KEYS.items():
            values[section] = {name: value for name, value in values[section].items() if name not in keys}
        file.write_text(yaml.safe_dump(values))
        if file.parent != found:
            seal(file.parent)
    assert read_config(found / "config.yaml").model.history == history
    return found


def test_an_older_run_is_evaluated_and_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    before = json.loads((run / "metrics.json").read_text())["model"]
    assert json.loads(capsys.readouterr().out)["model"] == pytest.approx(before)
    assert main(["recommend", str(run), "--user", "1001", "--json"]) == 0
    assert main(["recommend", str(run), "--history", "53,55", "--json"]) == 0


def test_an_older_run_is_resumed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / METRICS).unlink()  # as if it had been cut short
    assert main(["train", "--run.dir", str(run), "--run.epochs", "3"]) == 0
    assert "resum" in capsys.readouterr().out.lower()
    config = read_config(run / "config.yaml")
    assert (config.run.epochs, config.batches.rows) == (3, "user")


def test_an_older_run_is_started_from(run: Path, tmp_path: Path) -> None:
    assert main(["train", "--from", str(run), "--run.dir", str(tmp_path / "next"), "--run.epochs", "1"]) == 0
    before, after = (read_config(folder / "config.yaml").model for folder in (run, tmp_path / "next"))
    assert before.history == after.history
