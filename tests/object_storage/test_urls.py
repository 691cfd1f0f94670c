from pathlib import Path

import pytest

from trainer.object_storage.urls import absolute, home_of, is_url, local_path, name_of, scheme_of


def test_addresses_have_a_scheme_and_paths_have_none() -> None:
    assert [scheme_of(place) for place in ("s3://b/x", "GS://b", "memory://b", "runs/x", "a:b/c")] == [
        *("s3", "gs", "memory", None, None)
    ]


def test_a_file_address_is_a_path_of_this_machine() -> None:
    assert not is_url("file:///runs/x")
    assert local_path("file:///runs/x") == Path("/runs/x")
    assert local_path("runs/x") == Path("runs/x")
    assert absolute("file:///runs/x") == "/runs/x"
    assert absolute("s3://b//x") == "s3://b//x"


def test_local_copies_of_two_addresses_lie_apart_and_below_the_folder_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SHARDTOWER_STORE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home_of("s3://b/x").parent == tmp_path / "shardtower" / "objects"
    monkeypatch.setenv("SHARDTOWER_STORE_CACHE", str(tmp_path / "fast"))
    assert home_of("s3://b/x").parent == tmp_path / "fast"
    assert home_of("s3://b/x") == home_of("s3://b/x/") != home_of("s3://b/y")
    assert name_of("s3://b/runs/x/") == "x"
