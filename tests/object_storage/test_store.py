import sys
from pathlib import Path
from unittest import mock

import pytest

from trainer.errors import StorageError
from trainer.object_storage import store as store_module
from trainer.object_storage.store import ObjectStore, in_parallel


def test_objects_are_written_listed_read_and_removed(url: str, tmp_path: Path) -> None:
    store = ObjectStore(f"{url}/runs/")
    (tmp_path / "file").write_bytes(b"12345")
    store.upload(tmp_path / "file", "a/b")
    store.write("c", b"1")
    assert [(each.name, each.size) for each in store.list()] == [("a/b", 5), ("c", 1)]
    store.download("a/b", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"12345"
    store.remove(["a/b", "never there"])
    assert store.read("a/b") is None
    assert store.read("c") == b"1"
    assert ObjectStore(f"{url}/runs/c").list()[0].name == ""


def test_an_object_is_made_once(url: str) -> None:
    store = ObjectStore(url)
    assert store.create("lease", b"first")
    assert not store.create("lease", b"second")
    assert store.read("lease") == b"first"


def test_the_version_of_an_object_changes_as_it_is_written_anew(url: str) -> None:
    store = ObjectStore(url)
    store.write("x", b"1")
    before = store.list()[0].version
    store.write("x", b"2")
    assert store.list()[0].version != before


def test_refused_access_names_the_object_and_where_credentials_stand(url: str) -> None:
    store = ObjectStore(url)
    store._scheme = store_module.AMAZON
    with (
        mock.patch.object(type(store._files), "cat_file", side_effect=PermissionError("Access Denied")),
        pytest.raises(StorageError, match=r"/x: access failed \(Access Denied\)\. .*AWS_ACCESS_KEY_ID"),
    ):
        store.read("x")


@pytest.mark.parametrize(
    ("address", "package", "remedy"),
    [
        ("s3://b/x", "fsspec", r"Run: pip install fsspec s3fs filelock \(the extra `s3`\)"),
        ("gs://b/x", "gcsfs", r"Run: pip install fsspec gcsfs filelock \(the extra `gs`\)"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    address: str, package: str, remedy: str
) -> None:
    with (
        mock.patch.dict(sys.modules, {package: None}),
        mock.patch.dict(store_module._FS, clear=True),
        pytest.raises(StorageError, match=remedy),
    ):
        ObjectStore(address)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StorageError, match=r"^s4://b/x: Protocol not known: s4\. Use s3://"):
        ObjectStore("s4://b/x")


def test_the_first_error_of_several_operations_is_raised_and_the_rest_is_left() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            raise StorageError("0")
        done.append(item)

    with pytest.raises(StorageError, match="0"):
        in_parallel(work, range(1000))
    assert len(done) < 1000
