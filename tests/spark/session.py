"""A Spark session of two local cores, and rows, for tests."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pytest


def needs_spark() -> list[pytest.MarkDecorator]:
    """Marks of tests that start Spark."""
    missing = find_spec("pyspark") is None or shutil.which("java") is None
    return [
        pytest.mark.skipif(missing, reason="pyspark 4 or Java 17 is not installed"),
        pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
    ]


def session() -> Iterator[Any]:
    from trainer.spark.session import start_session

    patch = pytest.MonkeyPatch()
    patch.setenv("PYSPARK_SUBMIT_ARGS", "--master local[2] --conf spark.ui.enabled=false pyspark-shell")
    started = start_session()
    yield started
    started.stop()
    patch.undo()


def interactions(rows: int, seed: int = 0) -> pa.Table:
    """Rows with pairs that stand again, seconds that many share, weights of 0, and ids that are texts."""
    rng = np.random.default_rng(seed)
    users = rng.integers(60, size=rows) ** 2 // 60
    return pa.table(
        {
            "user_id": pa.array([f"u{user}" if user % 3 else f"{user:03}" for user in users]),
            "item_id": rng.integers(25, size=rows),
            "value": rng.integers(1, 6, size=rows).astype(np.float32),
            "timestamp": 1_600_000_000 + rng.integers(rows // 4, size=rows),
            "weight": rng.integers(0, 4, size=rows).astype(np.float32) / 2,
        }
    )
