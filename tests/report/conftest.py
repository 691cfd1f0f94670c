"""Runs on a checkerboard, with a title that would be a script if it were not escaped."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import worlds

SCRIPT = "<script>alert('title')</script> & more"
TRAIN, WITHHELD = worlds.checkerboard()


def trained(folder: Path, *arguments: str, users: int = 16) -> Path:
    train, withheld = worlds.checkerboard(users)
    items = folder / "items.parquet"
    titles = [SCRIPT, *(f"Item {number}" for number in range(52, 58)), None]
    kinds = [["even"], ["odd"], ["even", "rare"], ["odd"], ["even"], ["odd"], ["even"], None]
    pq.write_table(pa.table({"item_id": list(range(51, 59)), "title": titles, "kind": kinds}), items)
    return worlds.trained(
        folder, *worlds.options(folder, train, withheld), "--data.items", str(items), *arguments
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run without a validation part."""
    return trained(tmp_path_factory.mktemp("first"), "--evaluation.k", "1,2", "--run.log_every", "20")


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run on the same data, half as wide, with a validation part."""
    folder = tmp_path_factory.mktemp("second")
    validated = ("--data.validation_size", "0.1", "--run.evaluate_every", "5")
    small = ("--model.dim", "4", "--run.epochs", "10", "--run.log_every", "20")
    return trained(folder, "--evaluation.k", "1,2", *validated, *small)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run on other data, without baselines."""
    return trained(
        tmp_path_factory.mktemp("third"), "--evaluation.baselines", "[]", "--run.epochs", "2", users=8
    )
