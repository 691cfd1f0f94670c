"""The command over the export of a run that was trained here: the service says what the Recommender says."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import worlds
from tests.service.processes import ROOT, Service
from trainer.exporting.export import Wishes, export
from trainer.recommender.recommender import Recommender

TRAIN, WITHHELD = worlds.checkerboard()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    items = folder / "items.parquet"
    numbers = sorted({item for _, item in [*TRAIN, *WITHHELD]})
    named = {"item_id": numbers, "title": [f"Film {n}" for n in numbers], "year": [1950 + n for n in numbers]}
    pq.write_table(pa.table(named), items)
    options = worlds.options(folder, TRAIN, WITHHELD)
    run = worlds.trained(folder, *options, "--data.items", str(items))
    export(run, folder / "export", Wishes())
    return folder / "export"


@pytest.fixture(scope="module")
def service(exported: Path):
    command = [sys.executable, "-m", "trainer", "serve", str(exported), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        line = process.stdout.readline()
        try:
            yield Service(process, line.split()[-1])
        finally:
            process.kill()


def test_the_command_answers_as_the_recommender_does(exported: Path, service: Service) -> None:
    recommender = Recommender.open(exported)
    assert service.health()["export"]["items"] == len(recommender.items)
    for user in recommender.user_ids.to_pylist()[:4]:
        frame = recommender.recommend(user, k=3, why=1)
        answer = httpx.get(f"{service.url}users/{user}/recommendations?k=3&why=1").json()["items"]
        assert [each["item"] for each in answer] == [str(item) for item in frame["item"]]
        assert [each["title"] for each in answer] == frame["title"].tolist()
        assert [each["score"] for each in answer] == pytest.approx(frame["score"].tolist(), abs=1e-6)
        assert [[why["item"] for why in each["why"]] for each in answer] == [
            [str(item) for item in items] for items in frame["why"]
        ]
        past = httpx.get(f"{service.url}users/{user}/past").json()["items"]
        assert {each["item"] for each in past} == {str(item) for item in recommender.past(user)["item"]}


def test_histories_similar_items_and_titles_work_too(exported: Path, service: Service) -> None:
    recommender = Recommender.open(exported)
    first, second = recommender.items["item"].tolist()[:2]
    asked = {"history": [f"Film {first}", str(second), "no such film"], "k": 2, "where": ["year>=1951"]}
    answer = httpx.post(f"{service.url}recommend", json=asked).json()
    frame = recommender.recommend(history=[first, second], k=2, where=["year>=1951"])
    assert [each["item"] for each in answer["items"]] == [str(item) for item in frame["item"]]
    assert answer["unknown"] == ["no such film"]
    similar = httpx.get(f"{service.url}items/{first}/similar?k=3").json()["items"]
    assert [each["item"] for each in similar] == [str(each) for each in recommender.similar(first, 3)["item"]]
    found = httpx.get(f"{service.url}items", params={"title": f"film {first}"}).json()["items"]
    assert found[0]["title"] == f"Film {first}"


def test_a_batch_agrees_with_single_lists(service: Service, exported: Path) -> None:
    users = [str(user) for user in Recommender.open(exported).user_ids.to_pylist()[:3]]
    lists = httpx.post(f"{service.url}recommend/batch", json={"users": users, "k": 4}).json()["lists"]
    for user, each in zip(users, lists, strict=True):
        one = httpx.get(f"{service.url}users/{user}/recommendations?k=4").json()["items"]
        assert [item["item"] for item in each["items"]] == [item["item"] for item in one]


def test_errors_of_the_recommender_name_the_export_and_not_its_place(
    service: Service, exported: Path
) -> None:
    answer = httpx.get(f"{service.url}users/nobody/past")
    assert answer.status_code == 404
    assert "users of export" in answer.json()["error"]
    assert str(exported.parent) not in answer.json()["error"]


def test_the_export_before_a_swap_leaves_the_memory(service: Service) -> None:
    user = httpx.get(f"{service.url}users?limit=1").json()["users"][0]
    with httpx.Client(base_url=service.url) as client:  # its connection stays open over the swap
        assert client.get(f"users/{user}/recommendations").status_code == 200
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(lambda health: health["swaps"] == 1)
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert maps.count("/item_vectors.npy") == 1


def test_a_damaged_file_keeps_the_old_export_and_the_service_ends_with_code_0(
    service: Service, exported: Path
) -> None:
    file = exported / "item_vectors.npy"
    whole = file.read_bytes()
    # Written anew, as a copy over the network would; the service has the old file open.
    file.rename(file.with_suffix(".old"))
    file.write_bytes(whole[:-1] + b"x")
    service.process.send_signal(signal.SIGHUP)
    assert "item_vectors.npy" in service.wait_for(lambda health: health["refused"])["refused"]
    user = httpx.get(f"{service.url}users?limit=1").json()["users"][0]
    answer = httpx.get(f"{service.url}users/{user}/recommendations")
    assert answer.status_code == 200
    assert service.stop() == 0
