from pathlib import Path

import pytest

from trainer.errors import ConfigError, StorageError
from trainer.object_storage.lease import LEASE, Lease, is_held
from trainer.object_storage.store import ObjectStore


def test_a_second_training_is_refused_while_the_first_shows_signs_of_life(url: str, tmp_path: Path) -> None:
    store = ObjectStore(url)
    first, second = Lease(store, tmp_path / "one"), Lease(store, tmp_path / "two")
    first.take()
    assert is_held(url)
    with pytest.raises(
        ConfigError, match=rf"--run.dir {url}: another training is at work in it \(.*process \d"
    ):
        second.take()
    first.check()
    first.release()
    assert store.read(LEASE) is None
    assert not is_held(url)
    second.take()
    second.release()


def test_a_lease_without_a_sign_of_life_is_taken_over_and_its_holder_publishes_nothing(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(url)
    first, second = Lease(store, tmp_path / "one"), Lease(store, tmp_path / "two")
    monkeypatch.setattr(first, "_beat", lambda: None)
    first._thread._target = first._beat  # killed as soon as it has begun
    first.take()
    second.take()
    assert "waiting 0 s for a sign of life" in capsys.readouterr().err
    with pytest.raises(StorageError, match="has begun to train there"):
        first.check()
    second.check()
    first.release()
    assert store.read(LEASE) is not None, "what is released is one's own"
    second.release()


def test_a_lease_whose_first_request_was_answered_too_late_is_ones_own(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ObjectStore(url)
    lease = Lease(store, tmp_path / "own")
    store.write(LEASE, lease._content())
    lease.take()
    assert capsys.readouterr().err == ""
    lease.release()


@pytest.mark.parametrize("text", ["soon", "0"])
def test_seconds_of_a_lease_that_are_none_are_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SHARDTOWER_STORE_LEASE_SECONDS", text)
    with pytest.raises(StorageError, match=f"SHARDTOWER_STORE_LEASE_SECONDS {text}: expected seconds"):
        Lease(ObjectStore(url), tmp_path / "own")


def test_the_lease_of_a_training_that_died_on_this_host_is_not_waited_for(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ObjectStore(url)
    store.write(LEASE, b'{"holder": "this host", "id": "7", "beat": 3}')
    (tmp_path / "own").write_text("7")
    lease = Lease(store, tmp_path / "own")
    lease.take()
    assert capsys.readouterr().err == ""
    lease.check()
    lease.release()
