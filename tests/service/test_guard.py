"""Bad requests, keys and counts: every refusal is one sentence in JSON."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.service.standin import StandIn
from trainer.service.limits import Limits

JSON = {"Content-Type": "application/json"}
BAD = {
    "no JSON": ("POST", "/recommend", b"{", 400, "the body is no JSON: "),
    "NaN": ("POST", "/recommend", b'{"attributes": {"age": NaN}}', 422, "attributes.age: "),
    "infinity": ("POST", "/recommend", b'{"attributes": {"age": 1e999}}', 422, "attributes.age: "),
    "deeply nested": ("POST", "/recommend", b"[" * 100_000, 400, "the body "),
    "number of many digits": ("POST", "/recommend", b'{"user": ' + b"9" * 9000 + b"}", 400, "the body "),
    "half a surrogate": ("POST", "/recommend", b'{"user": "\\ud800"}', 422, "user: is no valid Unicode text"),
    "a list": ("POST", "/recommend", b"[1]", 422, "the body: "),
    "nothing": ("POST", "/recommend", b"", 422, "the body: is missing"),
    "nobody": ("POST", "/recommend", b"{}", 422, "user or history: one of them is needed"),
    "both": ("POST", "/recommend", b'{"user": 1, "history": [2]}', 422, "user and history: give one of them"),
    "unknown user": ("POST", "/recommend", b'{"user": "nobody"}', 400, "user nobody: no such user"),
    "misspelt field": ("POST", "/recommend", b'{"usr": 1}', 422, "usr: no such field"),
    "k is text": (
        "POST",
        "/recommend",
        b'{"user": 1, "k": "ten"}',
        422,
        "k: input should be a valid integer",
    ),
    "k is 0": ("POST", "/recommend", b'{"user": 1, "k": 0}', 422, "k: input should be greater than or equal"),
    "k is true": ("POST", "/recommend", b'{"user": 1, "k": true}', 422, "k: input should be a valid integer"),
    "k is huge": (
        "POST",
        "/recommend",
        b'{"user": 1, "k": 1001}',
        422,
        "k: 1,001 items, at most 1,000 can be",
    ),
    "user is true": ("POST", "/recommend", b'{"user": true}', 422, "user: "),
    "history of lists": ("POST", "/recommend", b'{"history": [[1]]}', 422, "history.0: "),
    "unknown attribute": (
        "POST",
        "/recommend",
        b'{"user": 1, "where": ["x=1"]}',
        400,
        "where x=1: no such",
    ),
    "batch of nothing": ("POST", "/recommend/batch", b"{}", 422, "users or histories: one of them is needed"),
    "batch of too many": (
        "POST",
        "/recommend/batch",
        b'{"users": [1, 2, 3, 4]}',
        422,
        "4 queries, at most 3",
    ),
    "k of GET": ("GET", "/users/1/recommendations?k=x", b"", 422, "k: input should be a valid integer"),
    "huge k of GET": ("GET", f"/users/1/recommendations?k={10**30}", b"", 422, "k: "),
    "unknown user of GET": ("GET", "/users/x%2Fy/past", b"", 404, "user x/y: no such user"),
    "unknown item": ("GET", "/items/900/similar", b"", 404, "item 900: no such item"),
    "no title": ("GET", "/items", b"", 422, "title: is missing"),
    "wrong path": ("GET", "/recommendations", b"", 404, "GET /recommendations: no such address. /docs lists"),
    "wrong method": ("PUT", "/recommend", b"", 405, "PUT /recommend: this address takes POST"),
    "file beside the page": ("GET", "/page/..%2Fapp.py", b"", 404, "GET /page/"),
    "invalid UTF-8": ("GET", "/users/%ff%fe/past", b"", 404, "user "),
}


@pytest.fixture(scope="module")
def strict(make_client: Callable) -> TestClient:
    return make_client(Limits(max_batch=3))


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_request_is_refused_by_one_sentence(strict: TestClient, fault: str) -> None:
    method, path, body, status, sentence = BAD[fault]
    answer = strict.request(method, path, content=body, headers=JSON if method == "POST" else {})
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert answer.json()["error"].startswith(sentence)
    assert len(answer.json()["error"]) < 300
    assert "\n" not in answer.json()["error"]


def test_a_body_without_its_type_is_refused_so_that_other_sites_cannot_ask(client: TestClient) -> None:
    answer = client.post("/recommend", content=b'{"user": 1}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["error"][:24]) == (415, "a body of JSON is needed")


def test_a_large_body_is_refused_before_it_is_read(make_client: Callable) -> None:
    client, given = make_client(Limits(max_body=1000)), []

    def chunks():
        for _ in range(10_000):
            given.append(1)
            yield b"x" * 500

    declared = client.post("/recommend", content=b"x" * 1001, headers=JSON)
    chunked = client.post("/recommend", content=chunks(), headers=JSON)
    assert declared.status_code == chunked.status_code == 413
    assert declared.json() == {"error": "the body is larger than 1,000 bytes; ask for less at once"}


def test_a_key_is_asked_for_where_there_is_one(make_client: Callable) -> None:
    client = make_client(keys=["old-key", "new-key"])
    assert client.get("/users/1/past").status_code == 401
    assert client.get("/users/1/past").headers["WWW-Authenticate"] == "Bearer"
    assert "needs an API key" in client.get("/metrics").json()["error"]
    assert "not one of" in client.get("/metrics", headers={"X-API-Key": "wrong"}).json()["error"]
    for headers in (
        {"X-API-Key": "new-key"},
        {"Authorization": "Bearer old-key"},
        {"authorization": "bearer new-key"},
    ):
        assert client.get("/users/1/past", headers=headers).status_code == 200
    for path in ("/", "/docs", "/openapi.json", "/health", "/page/style.css"):
        assert client.get(path).status_code == 200
    assert client.get("/openapi.json").json()["security"] == [{"key": []}, {"bearer": []}]


def test_a_slow_computation_is_given_up_and_counts_until_it_ends(make_client: Callable, monkeypatch) -> None:
    client = make_client(Limits(timeout=0.2, threads=1, max_requests=2))
    monkeypatch.setattr(StandIn, "slow", 0.8)
    answer = client.post("/recommend", json={"user": 1})
    assert answer.status_code == 504
    assert answer.json()["error"] == "the computation took longer than 0.2 seconds; ask for less"
    # Its thread is still busy: a further request waits in vain, and a third is not taken on at all.
    assert "shardtower_computations_overdue 1.0" in client.get("/metrics").text
    waiting = client.post("/recommend", json={"user": 1})
    assert (waiting.status_code, waiting.headers["Retry-After"]) == (503, "1")


def test_more_requests_than_the_bound_are_asked_to_come_back(make_client: Callable, monkeypatch) -> None:
    client = make_client(Limits(max_requests=1))
    monkeypatch.setattr(StandIn, "slow", 0.7)
    first: list = []
    thread = threading.Thread(target=lambda: first.append(client.post("/recommend", json={"user": 1})))
    thread.start()
    while client.app.in_flight == 0:
        time.sleep(0.01)
    refused = client.get("/users/1/past")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert client.get("/health").status_code == 200
    thread.join()
    assert first[0].status_code == 200
    assert client.get("/users/1/past").status_code == 200


def test_a_fault_of_ours_is_a_sentence_and_its_traceback_goes_to_the_log(
    make_client: Callable, capsys
) -> None:
    class Broken(StandIn):
        def past(self, user: str | int):
            raise ZeroDivisionError("secret detail")

    answer = make_client(opener=lambda folder: Broken(StandIn.open(folder).manifest)).get("/users/1/past")
    assert answer.status_code == 500
    assert answer.json() == {"error": "a fault of the service; its log has the details"}
    assert "secret detail" in capsys.readouterr().err


def test_requests_are_counted_by_route_and_status(make_client: Callable) -> None:
    client = make_client()
    for path in ("/users/1/past", "/users/2/past", "/users/none/past", "/nowhere", "/elsewhere"):
        client.get(path)
    client.request("INVENTED", "/nowhere")
    client.head("/health")
    text = client.get("/metrics").text
    route = "/users/{user:path}/past"
    client.post("/recommend", content=b"1", headers={"Content-Type": "text/plain"})
    text = client.get("/metrics").text
    assert "_created" not in text
    for line in (
        'shardtower_requests_total{method="POST",route="/recommend",status="415"} 1.0',
        f'shardtower_requests_total{{method="GET",route="{route}",status="200"}} 2.0',
        f'shardtower_requests_total{{method="GET",route="{route}",status="404"}} 1.0',
        'shardtower_requests_total{method="GET",route="other",status="404"} 2.0',
        'shardtower_requests_total{method="other",route="other",status="404"} 1.0',
        'shardtower_requests_total{method="HEAD",route="/health",status="200"} 1.0',
        f'shardtower_request_seconds_count{{route="{route}"}} 3.0',
        "shardtower_export_swaps_total 0.0",
        "process_resident_memory_bytes ",
    ):
        assert line in text, line
    assert f'hash="{client.current.export.hash}",name="films",step="100"' in text


def test_every_answer_names_the_export_that_gave_it(client: TestClient, tmp_path: Path) -> None:
    answers = [client.get("/users/1/past"), client.get("/nowhere")]
    assert {each.headers["X-Export"] for each in answers} == {client.current.export.hash}
