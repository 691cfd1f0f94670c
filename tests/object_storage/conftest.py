"""Stores for the tests of this room."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import memory_store


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Address of an empty store in memory, whose local copies lie in the test's folder."""
    with memory_store(tmp_path / "caches") as address:
        yield address
