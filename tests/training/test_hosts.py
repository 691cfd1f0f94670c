"""What hosts compare: other code, options or data have other facts, and other places have not."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

import trainer
from tests.distributed.small_training import small_dataset
from trainer.config.parser import parse_config
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.training.hosts import code_digest, data_facts, options, software


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(small_dataset(tmp_path_factory.mktemp("cache")))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_a_changed_or_added_file_changes_the_hash_of_the_code_and_a_copy_does_not(tmp_path: Path) -> None:
    package = tmp_path / "trainer"
    shutil.copytree(Path(trainer.__file__).parent / "facts", package)
    before = code_digest(package)
    shutil.copytree(package, tmp_path / "copy" / "trainer")
    assert code_digest(tmp_path / "copy" / "trainer") == before
    (package / "new.py").touch()
    added = code_digest(package)
    (package / "losses.py").write_text("# other\n")
    assert len({before, added, code_digest(package)}) == 3


def test_software_names_python_this_code_and_the_packages_that_compute() -> None:
    names = software().keys()
    assert {"Python", f"shardtower {trainer.__version__}, code", "torch", "torchrec", "numpy"} <= names
    assert "fbgemm-gpu" in names or "fbgemm-gpu-cpu" in names


def test_every_option_is_compared_but_for_those_that_name_places() -> None:
    before = options(parse_config(["--data.name", "ml-1m"]))
    other = ["--data.name", "ml-1m", "--model.dim", "24", "--optimizer.learning_rate", "0.5"]
    places = ["--data.root", "/mnt/b", "--data.cache", "/tmp/b", "--run.dir", "/mnt/run"]
    after = options(parse_config([*other, *places]))
    assert changed(before, after) == {"--model.dim", "--optimizer.learning_rate"}
    assert after["--model.dim"] == "24"


def test_the_same_data_in_another_folder_have_the_same_hashes(dataset: Dataset, tmp_path: Path) -> None:
    again = open_dataset(small_dataset(tmp_path))
    assert again.folder != dataset.folder
    assert data_facts(again) == data_facts(dataset)


def test_other_ids_or_other_interactions_have_other_hashes(dataset: Dataset, tmp_path: Path) -> None:
    ids = dataset.item_ids.to_pylist()
    renamed = replace(dataset, item_ids=pa.array([*ids[:-1], ids[-1] + 1]))
    assert changed(data_facts(dataset), data_facts(renamed)) == {"hash of ids of items"}
    fewer = replace(dataset, train=dataset.validation, folder=tmp_path)
    assert changed(data_facts(dataset), data_facts(fewer)) == {"hash of training interactions"}
