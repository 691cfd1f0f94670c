"""The copy that a training writes to."""

import random
import shutil
from pathlib import Path

import pytest

from trainer.errors import ConfigError, StorageError
from trainer.object_storage.copies import open_place
from trainer.object_storage.folder_upload import folder_to_publish
from trainer.object_storage.late import publish_late
from trainer.object_storage.lease import LEASE
from trainer.object_storage.marker import MARKER
from trainer.object_storage.store import ObjectStore
from trainer.object_storage.working_copy import WorkingCopy, working_copy_of, working_path

OLD = {
    "config.yaml": "one",
    "metrics.jsonl": "1\n",
    "checkpoints/step-1/.metadata": "m",
    "vocabulary/ids": "7",
}
NEW = {
    "config.yaml": "one",
    "metrics.jsonl": "1\n2\n",
    "checkpoints/step-2/.metadata": "n",
    "vocabulary/ids": "7",
}


def opened(url: str) -> WorkingCopy:
    copy = working_copy_of(working_path(url))
    assert copy is not None
    return copy


def write(folder: Path, files: dict[str, str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_a_copy_becomes_equal_to_what_is_in_force(url: str) -> None:
    copy = opened(url)
    write(copy.folder, OLD)
    copy.publish()
    write(copy.folder, NEW)  # and never published
    assert content(opened(url).folder) == OLD


def test_locks_and_what_is_half_written_are_not_published(url: str) -> None:
    copy = opened(url)
    write(
        copy.folder, {**OLD, ".lock": "", "checkpoints/step-2.partial/a": "", "vocabulary/.x.7.partial": ""}
    )
    assert copy.names() == sorted(OLD)


def test_only_what_has_changed_is_uploaded_and_what_no_marker_names_is_removed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = opened(url)
    write(copy.folder, OLD)
    copy.publish()
    uploaded, upload = [], ObjectStore.upload

    def watched(store: ObjectStore, path: Path, key: str) -> None:
        uploaded.append(key.rpartition(".")[0])
        upload(store, path, key)

    monkeypatch.setattr(ObjectStore, "upload", watched)
    write(copy.folder, NEW)
    copy.publish()
    assert sorted(uploaded) == ["checkpoints/step-2/.metadata", "metrics.jsonl"]
    kept = {each.name.rpartition(".")[0] for each in copy.store.list()} - {"published"}
    assert kept == {*NEW}


@pytest.mark.parametrize("seed", range(4))
def test_an_upload_that_dies_at_a_random_object_leaves_the_older_version_whole(
    url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    copy = opened(url)
    write(copy.folder, OLD)
    copy.publish()
    everything_new = {name: f"{text} anew" for name, text in NEW.items()}
    write(copy.folder, everything_new)
    left, upload = random.Random(seed).randrange(len(NEW)), ObjectStore.upload

    def dying(store: ObjectStore, path: Path, key: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise StorageError("died")
        upload(store, path, key)

    monkeypatch.setattr(ObjectStore, "upload", dying)
    with pytest.raises(StorageError, match="died"):
        copy.publish()
    monkeypatch.setattr(ObjectStore, "upload", upload)
    assert content(open_place(url)) == OLD
    again = opened(url)
    assert content(again.folder) == OLD
    again.remove_leftovers()
    assert len(again.store.list()) == len(OLD) + 1, "what the dead upload has left is removed"
    write(again.folder, everything_new)
    again.publish()
    assert content(open_place(url)) == everything_new


def test_a_copy_in_which_a_training_is_at_work_is_left_alone(url: str) -> None:
    copy = opened(url)
    write(copy.folder, OLD)
    with copy.locked(), pytest.raises(ConfigError, match=f"--run.dir {url}: another training is at work"):
        opened(url)
    assert content(copy.folder) == OLD


def test_an_outcome_that_was_not_uploaded_is_kept_aside(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    copy = opened(url)
    write(copy.folder, OLD)
    copy.publish()
    write(copy.folder, {**NEW, "metrics.json": "{}"})
    assert content(opened(url).folder) == OLD
    kept = Path(capsys.readouterr().err.strip().rpartition(" ")[2])
    assert content(kept) == {**NEW, "metrics.json": "{}"}


def test_what_is_made_after_the_training_is_added(url: str) -> None:
    copy = opened(url)
    write(copy.folder, OLD)
    copy.publish()
    (copy.folder / "vectors.npy").write_text("made later")
    publish_late(copy.folder)
    assert content(open_place(url)) == {**OLD, "vectors.npy": "made later"}
    copy.store.write(LEASE, b"another training's")
    (copy.folder / "vectors.npy").write_text("too late")
    copy.store.write(MARKER, (copy.store.read(MARKER) or b"").replace(copy.marker.digest.encode(), b"other"))
    publish_late(copy.folder)
    assert b"other" in (copy.store.read(MARKER) or b""), "another training has gone on"


def test_an_address_above_other_runs_is_refused_and_nothing_of_theirs_is_removed(url: str) -> None:
    copy = opened(f"{url}/runs/first")
    write(copy.folder, OLD)
    copy.publish()
    with pytest.raises(ConfigError, match=f"--run.dir {url}/runs: first lies below it"):
        opened(f"{url}/runs").remove_leftovers()
    assert content(open_place(f"{url}/runs/first")) == OLD


def test_an_address_that_holds_an_export_is_no_run_folder(url: str) -> None:
    with folder_to_publish(url, "manifest.json", replace=False) as folder:
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"--run.dir {url}: holds what is no run"):
        opened(url)
    assert content(open_place(url)) == {"manifest.json": "{}"}
