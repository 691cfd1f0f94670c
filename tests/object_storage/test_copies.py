"""Local copies of data, and of what was published."""

import shutil
from pathlib import Path
from unittest import mock

import pytest

from trainer.errors import StorageError, UserError
from trainer.formatting import with_names
from trainer.object_storage import fetch as fetch_module
from trainer.object_storage.copies import data_copy, object_facts, open_place, published_below
from trainer.object_storage.folder_upload import folder_to_publish
from trainer.object_storage.store import ObjectStore
from trainer.object_storage.urls import home_of
from trainer.object_storage.working_copy import WorkingCopy, working_copy_of, working_path


@pytest.fixture
def downloads() -> list[str]:
    """Keys that are fetched."""
    return []


@pytest.fixture(autouse=True)
def _watched(downloads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    download = ObjectStore.download

    def watched(store: ObjectStore, key: str, path: Path) -> None:
        downloads.append(key)
        download(store, key, path)

    monkeypatch.setattr(ObjectStore, "download", watched)


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_data_are_fetched_once_and_again_where_an_object_has_changed(url: str, downloads: list[str]) -> None:
    store = ObjectStore(f"{url}/log")
    store.write("part-0.csv", b"0")
    store.write("day=1/part-1.csv", b"1")
    store.write("_SUCCESS", b"")
    first = data_copy("--data.interactions", f"{url}/log/")
    assert content(first) == {"part-0.csv": b"0", "day=1/part-1.csv": b"1"}
    assert sorted(downloads) == ["day=1/part-1.csv", "part-0.csv"]
    assert data_copy("--data.interactions", f"{url}/log") == first
    assert len(downloads) == 2
    store.write("part-0.csv", b"new")
    second = data_copy("--data.interactions", f"{url}/log")
    assert content(second) == {"part-0.csv": b"new", "day=1/part-1.csv": b"1"}
    assert second != first


def test_one_object_keeps_its_name(url: str) -> None:
    ObjectStore(url).write("log.csv.gz", b"0")
    copy = data_copy("--data.interactions", f"{url}/log.csv.gz")
    assert (copy.name, copy.read_bytes()) == ("log.csv.gz", b"0")
    assert with_names(f"{copy}:7: bad") == f"{url}/log.csv.gz:7: bad"


def test_facts_of_a_copy_are_those_of_the_objects_on_every_host(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ObjectStore(url).write("log/a.csv", b"12")
    facts = []
    for host in ("one", "two"):
        monkeypatch.setenv("SHARDTOWER_STORE_CACHE", str(tmp_path / host))
        copy = data_copy("--data.interactions", f"{url}/log")
        assert copy.is_relative_to(tmp_path / host)
        facts.append(object_facts(copy))
    assert facts[0] == facts[1]
    assert [each[:2] for each in facts[0] or ()] == [(f"{url}/log/a.csv", 2)]
    assert object_facts(tmp_path) is None


def test_nothing_at_an_address_is_named_with_the_option(url: str) -> None:
    with pytest.raises(StorageError, match=rf"--data.users {url}/none: no such object"):
        data_copy("--data.users", f"{url}/none")


def test_a_fetch_that_was_cut_off_goes_on_at_the_next_file(url: str, downloads: list[str]) -> None:
    store = ObjectStore(f"{url}/log")
    for number in range(3):
        store.write(f"part-{number}.csv", bytes(10))
    with (
        mock.patch.object(fetch_module, "in_parallel", _in_turn),
        mock.patch.object(fetch_module, "_fault", side_effect=[None, KeyboardInterrupt]),
        pytest.raises(KeyboardInterrupt),
    ):
        data_copy("--data.interactions", f"{url}/log")
    assert downloads == ["part-0.csv", "part-1.csv"]
    downloads.clear()
    assert len(content(data_copy("--data.interactions", f"{url}/log"))) == 3
    assert sorted(downloads) == ["part-1.csv", "part-2.csv"]


def _in_turn(work, items) -> None:
    for item in items:
        work(item)


def publish(url: str, files: dict[str, bytes]) -> WorkingCopy:
    """Publish files as the run at an address."""
    copy = working_copy_of(working_path(url))
    assert copy is not None
    shutil.rmtree(copy.folder, ignore_errors=True)
    for name, text in files.items():
        (copy.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (copy.folder / name).write_bytes(text)
    copy.publish()
    return copy


OLD = {"config.yaml": b"old", "checkpoints/step-1/a": b"weights"}
NEW = {"config.yaml": b"new", "checkpoints/step-2/a": b"trained"}


def test_a_reader_opens_what_was_published_and_fetches_it_once(url: str, downloads: list[str]) -> None:
    publish(f"{url}/x", OLD)
    shutil.rmtree(home_of(f"{url}/x"))  # another machine
    copy = open_place(f"{url}/x")
    assert content(copy) == OLD
    assert copy.name == "x"
    assert open_place(f"{url}/x/") == copy
    assert len(downloads) == 2
    assert published_below(url) == [f"{url}/x"]


def test_a_reader_between_two_publications_sees_the_older_whole_one(url: str) -> None:
    copy = publish(url, OLD)
    shutil.rmtree(copy.folder)
    for name, text in NEW.items():
        (copy.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (copy.folder / name).write_bytes(text)
    copy.upload(copy.names())  # and no marker yet
    assert content(open_place(url)) == OLD


def test_a_reader_that_is_overtaken_takes_the_newer_version(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(url, OLD)
    shutil.rmtree(home_of(url))
    download, overtaken = ObjectStore.download, []

    def overtaking(store: ObjectStore, key: str, path: Path) -> None:
        if not overtaken:
            overtaken.append(key)
            publish(url, NEW)  # which removes the objects of the old one
        download(store, key, path)

    monkeypatch.setattr(ObjectStore, "download", overtaking)
    assert content(open_place(url)) == NEW


def test_a_damaged_object_is_named(url: str) -> None:
    copy = publish(url, OLD)
    key = copy.marker.entries["checkpoints/step-1/a"].key
    copy.store.write(key, b"WEIGHTS")
    shutil.rmtree(home_of(url))
    with pytest.raises(StorageError, match=rf"{url}/{key}: is damaged \(SHA-256 .*, expected "):
        open_place(url)


def test_a_missing_object_is_named(url: str) -> None:
    copy = publish(url, OLD)
    key = copy.marker.entries["config.yaml"].key
    copy.store.remove([key])
    shutil.rmtree(home_of(url))
    with pytest.raises(StorageError, match=rf"{url}/{key}: is missing, though published.json names it"):
        open_place(url)


def test_an_address_without_a_run_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="no run or export was published there"):
        open_place(url)


def test_a_folder_is_published_under_plain_names_and_replaced_only_where_asked(
    url: str, tmp_path: Path
) -> None:
    for number, replace in ((1, False), (2, True)):
        with folder_to_publish(url, "manifest.json", replace) as folder:
            folder.mkdir()
            (folder / "vectors.npy").write_bytes(bytes(number))
            (folder / "manifest.json").write_text(str(number))
        assert (open_place(url) / "vectors.npy").stat().st_size == number
    names = [each.name for each in ObjectStore(url).list()]
    assert len(names) == 3, "the objects of the first version are removed"
    assert {name.rpartition("/")[2] for name in names} == {"vectors.npy", "manifest.json", "published.json"}
    with pytest.raises(UserError, match="holds an export"), folder_to_publish(url, "manifest.json", False):
        pass


def test_a_publication_that_fails_leaves_the_older_one_and_nothing_here(url: str) -> None:
    with folder_to_publish(url, "manifest.json", False) as folder:
        folder.mkdir()
        (folder / "manifest.json").write_text("1")
    with pytest.raises(FileNotFoundError), folder_to_publish(url, "manifest.json", True) as folder:
        folder.mkdir()  # without a manifest
    assert not folder.exists()
    assert content(open_place(url)) == {"manifest.json": b"1"}
