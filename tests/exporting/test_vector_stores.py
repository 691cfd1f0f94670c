"""The page on vector stores: each of its blocks runs, and finds what the exact ranking finds."""

import os
from pathlib import Path

import numpy as np
import pytest
from pgvector import Vector

import trainer
from tests import worlds
from tests.test_readmes import blocks
from trainer.exporting.export import export
from trainer.recommender.recommender import Recommender

PAGE = Path(trainer.__file__).parent / "exporting" / "VECTOR_STORES.md"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Names that the blocks of the page define, and the exact ten best items."""
    folder = tmp_path_factory.mktemp("stores")
    train, withheld = worlds.checkerboard(users=32, items=16)
    run = worlds.trained(folder, *worlds.options(folder, train, withheld))
    export(run, folder / "export")
    names: dict = {"folder": str(folder / "export"), "store": str(folder / "lance")}
    for block in blocks(PAGE, "python"):
        exec(block, names)
    opened = Recommender.open(folder / "export")
    user = opened._export.user_ids[0].as_py()
    names["expected"] = opened.recommend(user, k=10, keep_seen=True)["item"].tolist()
    return names


@pytest.mark.parametrize("store", ["qdrant", "lance"])
def test_a_store_finds_the_exact_ten_best_items(found: dict, store: str) -> None:
    assert found[f"{store}_items"] == found["expected"]


def test_rows_for_copy_give_back_ids_and_vectors(found: dict) -> None:
    rows = [row.split("\t") for row in found["rows"]]
    assert [int(item) for item, _ in rows] == found["ids"]
    assert np.allclose([Vector.from_text(text).to_list() for _, text in rows], found["vectors"])


def test_a_postgres_server_finds_the_exact_ten_best_items(found: dict) -> None:
    if "SHARDTOWER_POSTGRES" not in os.environ:
        pytest.skip("SHARDTOWER_POSTGRES names no server with pgvector")
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(os.environ["SHARDTOWER_POSTGRES"]) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        cursor.execute(found["create"].replace("CREATE TABLE", "CREATE TEMPORARY TABLE"))
        with cursor.copy(found["copy"]) as copy:
            copy.write("\n".join(found["rows"]))
        cursor.execute(found["index"])
        assert [row[0] for row in cursor.execute(found["search"])] == found["expected"]
