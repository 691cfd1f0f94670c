"""Stores for the tests of this room."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import memory_store
from trainer.object_storage import lease


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an empty store in memory, whose local copies lie in the test's folder."""
    monkeypatch.setattr(lease, "SETTLED_SECONDS", 0.05)
    with memory_store(tmp_path / "caches") as address:
        yield address
