"""Trainings whose run folder is in an object store, in one process; several hosts: tests/distributed."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import trainer
from tests.stores import memory_store
from tests.worlds import QUICK, checkerboard, options
from trainer.cli import main
from trainer.errors import StorageError
from trainer.fitting import loop
from trainer.object_storage.copies import open_place
from trainer.object_storage.store import ObjectStore
from trainer.object_storage.urls import home_of
from trainer.object_storage.working_copy import working_copy_of, working_path
from trainer.runs.checkpoint_store import newest
from trainer.training.hosts import _run_there

SAVED = ("--run.save_every", "20", "--device", "cpu", "--run.log_every", "20")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with memory_store(tmp_path_factory.mktemp("caches")) as address:
        yield address


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*QUICK, *SAVED, *options(tmp_path_factory.mktemp("data"), *checkerboard())]


@pytest.fixture(scope="module")
def plain(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training in a folder of this machine."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert main(["train", *data, "--run.dir", str(run)]) == 0
    return run


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of the weights of the outcome, by file."""
    folder = newest(run).folder
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.distcp")}
    assert found
    return found


def files(run: Path) -> set[str]:
    """Files of a run; those of vectors are named after a checkpoint, which holds its seconds."""
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {re.sub("-[0-9a-f]{20}", "", name) for name in names}


def new_machine(url: str) -> None:
    shutil.rmtree(home_of(url), ignore_errors=True)


def killed_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the process's training without a word, as far as one process can."""
    steps, train_step = iter(range(1, 10**6)), loop.train_step

    def dying(*arguments):
        if next(steps) > step:
            raise MemoryError("killed")
        return train_step(*arguments)

    monkeypatch.setattr(loop, "train_step", dying)


def test_a_killed_training_goes_on_from_an_empty_cache_to_the_same_weights_bit_by_bit(
    store: str,
    data: list[str],
    plain: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"{store}/runs/killed"
    killed_after(50, monkeypatch)
    with pytest.raises(MemoryError):
        main(["train", *data, "--run.dir", url])
    monkeypatch.undo()
    new_machine(url)
    assert main(["train", "--run.dir", url, *data]) == 0
    said = capsys.readouterr().out
    assert "Going on after step 40 of 80." in said
    assert f"recommend {url} --user" in said
    assert str(home_of(url)) not in said, "messages name what is there on every machine"
    new_machine(url)
    run = open_place(url)
    assert weights(run) == weights(plain)
    assert json.loads((run / "metrics.json").read_text())["run"] == url


def test_figures_and_files_are_those_of_a_folder(store: str, data: list[str], plain: Path) -> None:
    url = f"{store}/runs/same"
    assert main(["train", *data, "--run.dir", url, "--run.save_async", "true"]) == 0
    new_machine(url)
    run = open_place(url)
    assert files(run) == files(plain)
    assert any(name.startswith("vectors/") for name in files(run)), "kept by the closing recommendation"
    assert weights(run) == weights(plain)
    assert trainer.open_run(url).metrics["model"] == trainer.open_run(plain).metrics["model"]
    assert trainer.open_run(url).config.run.dir == url


def test_commands_take_addresses(store: str, data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    url, export = f"{store}/commands/run", f"{store}/exports/one"
    assert main(["train", *data, "--run.dir", url]) == 0
    for command in (
        ["evaluate", url, "--device", "cpu", "--json", "--compare", url],
        ["recommend", url, "--user", "1001"],
        ["plan", url],
        ["export", url, export],
        ["runs", f"{store}/commands"],
        ["train", *data, "--from", url, "--run.dir", f"{store}/commands/next"],
    ):
        assert main(command) == 0, command
    said = capsys.readouterr().out
    assert f'"run": "{url}"' in said
    assert f"{url}  " in said, "the list of runs"
    known = trainer.Recommender.open(export).recommend(1001, k=1)
    assert known["item"].tolist() == trainer.open_run(url).recommend(1001, k=1)["item"].tolist()
    assert main(["train", "--run.dir", url]) == 2
    assert f"--run.dir {url}: holds a finished run" in capsys.readouterr().err
    assert main(["export", url, export]) == 2
    assert f"{export}: holds an export" in capsys.readouterr().err


def test_data_may_lie_in_a_store(
    store: str, data: list[str], plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = [*data]
    for option in ("--data.interactions", "--data.held_out"):
        place = moved.index(option) + 1
        address = f"{store}/data/{Path(moved[place]).name}"
        ObjectStore(address).upload(Path(moved[place]), "")
        moved[place] = address
    assert main(["train", *moved, "--run.dir", str(tmp_path / "run")]) == 0
    assert weights(tmp_path / "run") == weights(plain)
    assert f"interactions: {store}/data/interactions.parquet" in (tmp_path / "run/config.yaml").read_text()
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    with mock.patch.object(ObjectStore, "download", side_effect=AssertionError("fetched twice")):
        assert main(["prepare", *[word for word in moved if word not in (*QUICK, *SAVED)]]) == 0
    capsys.readouterr()


def test_a_checkpoint_that_cannot_be_uploaded_is_told_and_the_training_goes_on(
    store: str,
    data: list[str],
    plain: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, upload = f"{store}/runs/failing", ObjectStore.upload

    def failing(self: ObjectStore, path: Path, key: str) -> None:
        if "step-000000040" in key:
            raise StorageError(f"{self.place(key)}: no answer within 300 s")
        upload(self, path, key)

    monkeypatch.setattr(ObjectStore, "upload", failing)
    assert main(["train", *data, "--run.dir", url, "--run.keep_last", "1"]) == 0
    assert "no answer within 300 s. The training goes on" in capsys.readouterr().out
    assert weights(open_place(url)) == weights(plain)


def test_a_refused_training_leaves_nothing_in_the_store(
    store: str, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{store}/runs/refused"
    assert main(["train", *data, "--run.dir", url, "--evaluation.baselines", "ease,nonsense"]) == 2
    assert main(["train", *data, "--run.dir", url, "--sharding.plan", "missing.json"]) == 2
    assert ObjectStore(url).list() == []
    capsys.readouterr()


def test_without_the_package_the_extra_is_named(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.dict(sys.modules, {"s3fs": None, "fsspec": None}):
        assert main(["recommend", "s3a://bucket/runs/x", "--user", "1"]) == 2
    assert "Run: pip install fsspec s3fs filelock (the extra `s3`)" in capsys.readouterr().err


def test_hosts_compare_the_version_that_is_in_force(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{store}/runs/compared"
    facts = []
    for host in ("one", "two"):
        monkeypatch.setenv("SHARDTOWER_STORE_CACHE", str(tmp_path / host))
        run = working_path(url)
        copy = working_copy_of(run)
        assert copy is not None
        facts.append(_run_there(run))
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text("{}")
        copy.publish()  # while the other host starts
    assert facts[0] == "holds no run"
    assert re.fullmatch("version [0-9a-f]{12}", facts[1])
