import time
from pathlib import Path

import pytest

from trainer.object_storage import follow
from trainer.object_storage.folder_upload import folder_to_publish
from trainer.object_storage.follow import followed


def publish(url: str, text: str) -> None:
    with folder_to_publish(url, "manifest.json", replace=True) as folder:
        folder.mkdir()
        (folder / "manifest.json").write_text(text)


def test_a_folder_is_followed_where_it_is(tmp_path: Path) -> None:
    with followed(str(tmp_path), 1.0) as folder:
        assert folder == tmp_path


def test_a_link_leads_to_what_is_published_next(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LEAST_SECONDS", 0.05)
    publish(f"{url}/export", "first")
    with followed(f"{url}/export", 0.05) as folder:
        assert folder.resolve().name == "export"
        assert (folder / "manifest.json").read_text() == "first"
        publish(f"{url}/export", "second")
        for _ in range(200):
            if (folder / "manifest.json").read_text() == "second":
                break
            time.sleep(0.05)
        assert (folder / "manifest.json").read_text() == "second"
    assert not folder.parent.exists()


def test_without_a_pause_there_is_one_look(url: str) -> None:
    publish(url, "first")
    with followed(url, 0) as folder:
        publish(url, "second")
        assert (folder / "manifest.json").read_text() == "first"
