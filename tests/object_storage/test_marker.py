import json

import pytest

from trainer.errors import StorageError
from trainer.object_storage.marker import MARKER, Entry, read_marker, run_key, write_marker
from trainer.object_storage.store import ObjectStore

ENTRIES = {"config.yaml": Entry("config.yaml.0123456789ab", 3, "0123456789ab" + "0" * 52)}


def test_a_marker_is_read_as_it_was_written(url: str) -> None:
    store = ObjectStore(url)
    assert read_marker(store) is None
    written = write_marker(store, ENTRIES)
    assert read_marker(store) == written
    assert dict(written.entries) == ENTRIES
    assert write_marker(store, ENTRIES).digest == written.digest, "the digest is of the content"


def test_other_content_has_another_key() -> None:
    assert run_key("a/b.npy", "0123456789abcdef") == "a/b.npy.0123456789ab"


def test_a_damaged_marker_is_named(url: str) -> None:
    store = ObjectStore(url)
    write_marker(store, ENTRIES)
    store.write(MARKER, (store.read(MARKER) or b"").replace(b'"size": 3', b'"size": 4'))
    with pytest.raises(StorageError, match=rf"{url}/published.json: is damaged \(not as it was written\)"):
        read_marker(store)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_a_marker_that_names_files_outside_its_folder_is_refused(url: str, name: str) -> None:
    store = ObjectStore(url)
    write_marker(store, {name: ENTRIES["config.yaml"]})
    with pytest.raises(StorageError, match=f"names {name}"):
        read_marker(store)


def test_a_marker_of_another_format_is_refused(url: str) -> None:
    store = ObjectStore(url)
    store.write(MARKER, json.dumps({"format": 2, "own_sha256": "", "time": 0}).encode())
    with pytest.raises(StorageError, match="of format 2, expected 1"):
        read_marker(store)
