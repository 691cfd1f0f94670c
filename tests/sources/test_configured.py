"""Where the files of a configuration's source are: addresses of object stores, and buckets of users."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.stores import memory_store
from trainer.config.schema import DataConfig
from trainer.errors import DataError
from trainer.object_storage.store import ObjectStore
from trainer.sources.configured import buckets_on_disk, fetched, source_of
from trainer.storage.user_buckets import HASH, MANIFEST, bucket_folder, manifest_text, user_buckets

USERS = [f"u{number}" for number in range(40)]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Interactions of 40 users at an address, in 4 buckets."""
    with memory_store(tmp_path) as store:
        files, buckets = fsspec.filesystem("memory"), user_buckets(pa.array(USERS), 4)
        address = f"{store}/log"
        with files.open(f"{address}/{MANIFEST}", "w") as file:
            file.write(manifest_text(4))
        for bucket in range(4):
            own = [user for user, each in zip(USERS, buckets, strict=True) if each == bucket]
            with files.open(f"{address}/{bucket_folder(bucket)}/part-0.parquet", "wb") as file:
                pq.write_table(pa.table({"user_id": own, "item_id": own}), file)
        yield address


def test_a_host_fetches_the_files_of_its_own_buckets_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []
    download = ObjectStore.download

    def watched(store: ObjectStore, key: str, path: Path) -> None:
        downloads.append(key)
        download(store, key, path)

    monkeypatch.setattr(ObjectStore, "download", watched)
    data = DataConfig(name="files", interactions=url)
    assert buckets_on_disk(data) == (4, HASH)
    make_source, key = source_of(data, [0, 2])
    assert {*downloads} == {MANIFEST, "user_bucket=0/part-0.parquet", "user_bucket=2/part-0.parquet"}
    users = {user for batch in make_source().interactions for user in batch["user_id"].to_pylist()}
    buckets = dict(zip(USERS, user_buckets(pa.array(USERS), 4).tolist(), strict=True))
    assert users == {user for user, bucket in buckets.items() if bucket in (0, 2)}
    assert key["interactions"] != source_of(data, [1, 3])[1]["interactions"]
    whole, _ = source_of(data)  # a host that shares no users
    assert sum(len(batch) for batch in whole().interactions) == len(USERS)


def test_an_address_without_buckets_is_read_whole(tmp_path: Path) -> None:
    with memory_store(tmp_path) as store:
        with fsspec.filesystem("memory").open(f"{store}/log.csv", "w") as file:
            file.write("user_id,item_id\n1,2\n")
        data = DataConfig(name="files", interactions=f"{store}/log.csv")
        assert buckets_on_disk(data) is None
        assert Path(fetched(data).interactions or "").read_text() == "user_id,item_id\n1,2\n"


def test_prepared_data_do_not_go_to_an_address() -> None:
    with pytest.raises(DataError, match=r"^--data.cache s3://b: prepared data are memory-mapped"):
        fetched(DataConfig(name="synthetic", cache="s3://b"))
