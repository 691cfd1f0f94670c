"""A real process on loopback: stopping, swapping, slow clients, taken ports."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service.processes import Service, running, start
from tests.service.standin import write_export
from trainer.errors import ConfigError
from trainer.service.server import bound_socket, read_keys

ASK = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits half a second for everything."""
    folder = write_export(tmp_path_factory.mktemp("impatient") / "films")
    with running(folder, "--timeout", "0.5", "--max-body", "2KB", FILES="100") as service:
        yield service


def sent(service: Service, *pieces: bytes) -> tuple[int, dict]:
    """Send pieces, then read until the service closes the connection; return status and body."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        for piece in pieces:
            client.sendall(piece)
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def cut_off(client: socket.socket, piece: bytes, pause: float = 0.0) -> None:
    """Send a piece again and again until the service closes the connection."""
    with contextlib.suppress(ConnectionError):
        while True:
            client.sendall(piece)
            time.sleep(pause)


def test_a_client_that_sends_no_headers_is_let_go(impatient: Service) -> None:
    late = (408, {"error": "the headers did not arrive within 0.5 seconds"})
    assert sent(impatient, b"") == late
    assert sent(impatient, b"GET /health HT") == late


def test_a_client_that_sends_its_body_slowly_is_let_go(impatient: Service) -> None:
    assert sent(impatient, ASK, b'{"user"') == (408, {"error": "the body did not arrive within 0.5 seconds"})


def test_what_is_no_http_and_too_long_headers_are_refused_by_a_sentence(impatient: Service) -> None:
    refused = (400, {"error": "this is no HTTP request, or its headers are too long"})
    assert sent(impatient, b"\x16\x03\x01\x00 hello\r\n\r\n") == refused
    assert sent(impatient, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 40_000) == refused


def test_a_client_that_sends_ten_megabytes_gets_an_answer(impatient: Service) -> None:
    answer = httpx.post(
        f"{impatient.url}recommend", content=b"x" * 10**7, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, list(answer.json())) == (413, ["error"])


def test_a_refused_body_that_never_ends_is_cut_off(impatient: Service) -> None:
    head = ASK.replace(b"Content-Length: 11", b"Content-Length: 99999999")
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as client:
        client.sendall(head)
        assert client.recv(65536).startswith(b"HTTP/1.1 413")
        cut_off(client, b"x" * 1000, pause=0.01)
    assert impatient.health()["ready"]


def test_a_client_that_does_not_read_is_cut_off_and_the_others_are_served(impatient: Service) -> None:
    ask = b"GET /page/style.css HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.sendall(ask * 800)  # answers of some 7 MB, more than the buffers between us hold
        cut_off(client, ask, pause=0.05)
    assert impatient.health()["ready"]


def test_more_connections_than_files_are_left_are_refused_by_a_sentence(impatient: Service) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(36):  # of 100 files, 64 are kept for other things
            held.enter_context(socket.create_connection(("127.0.0.1", impatient.port)))
        busy = (503, {"error": "the service has too many connections; try again in a moment"})
        assert sent(impatient) == busy
    assert sent(impatient, b"GET /health HTTP/1.0\r\n\r\n")[0] == 200


def test_requests_follow_each_other_on_one_connection(impatient: Service) -> None:
    with httpx.Client(base_url=impatient.url) as client:
        for user in range(5):
            assert client.get(f"users/{user}/past").status_code == 200
            time.sleep(0.15)  # together longer than one request may take


def test_sigterm_finishes_the_request_in_flight_and_ends_with_code_0(tmp_path: Path) -> None:
    with running(write_export(tmp_path / "films"), SLOW="0.6") as service:
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{service.url}recommend", json={"user": 1}, timeout=20))
        )
        asking.start()
        while "in_flight 2.0" not in httpx.get(f"{service.url}metrics").text:
            time.sleep(0.01)
        assert service.stop() == 0
        asking.join()
        assert answers[0].json()["items"][0]["item"] == "0"
        assert service.process.stderr.read() == ""
        with pytest.raises(httpx.ConnectError):
            service.health()


def test_ctrl_c_ends_with_code_130(tmp_path: Path) -> None:
    with running(write_export(tmp_path / "films")) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(20) == 130
        assert service.process.stderr.read() == "interrupted\n"


def test_exports_are_swapped_by_folder_link_and_signal_without_a_lost_request(tmp_path: Path) -> None:
    monday = write_export(tmp_path / "monday")
    (tmp_path / "now").symlink_to(monday)
    stop, answers, failures = threading.Event(), [], []
    with running(tmp_path / "now", "--watch", "0.1") as service:

        def ask() -> None:
            with httpx.Client(base_url=service.url, timeout=20) as client:
                while not stop.is_set():
                    try:
                        answer = client.get("users/1/recommendations?k=1").raise_for_status()
                        answers.append((answer.headers["X-Export"], answer.json()["items"][0]["score"]))
                    except httpx.HTTPError as error:
                        failures.append(error)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        # The folder is replaced.
        shutil.rmtree(monday)
        write_export(tmp_path / "new", version=2).rename(monday)
        service.wait_for(lambda health: health["export"]["step"] == 200)
        # The link is switched.
        write_export(tmp_path / "tuesday", version=3)
        (tmp_path / "next").symlink_to(tmp_path / "tuesday")
        os.replace(tmp_path / "next", tmp_path / "now")
        service.wait_for(lambda health: health["export"]["name"] == "tuesday")
        # A damaged one is refused, and what was opened goes on.
        write_export(tmp_path / "tuesday", version=4, damaged=True)
        refused = service.wait_for(lambda health: health["refused"] is not None)
        assert refused["export"]["step"] == 300
        assert "is damaged" in refused["refused"]
        # A signal asks for it at once.
        write_export(tmp_path / "tuesday", version=5)
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(lambda health: health["export"]["step"] == 500)
        stop.set()
        for client in clients:
            client.join()
        assert service.stop() == 0
        errors = service.process.stderr.read()
    assert failures == []
    # Film 0 has 60 and the version: a request was answered by one export as a whole.
    assert {score for _, score in answers} <= {61.0, 62.0, 63.0, 65.0}
    assert {61.0, 65.0} <= {score for _, score in answers}
    assert len(set(answers)) == len({name for name, _ in answers})
    assert errors.count("now serving") == 3
    assert errors.count("refused: ") == 1


def test_a_port_in_use_is_an_error_of_one_line(tmp_path: Path) -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        process = start(write_export(tmp_path / "films"), "--port", str(port))
        out, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert out == ""
    assert error == f"error: 127.0.0.1: port {port} is in use. Take another --port, or 0 for a free one\n"


@pytest.mark.parametrize(
    ("host", "message"),
    [("no.such.host.invalid", "no such address"), ("203.0.113.7", "this machine has no such address")],
)
def test_an_address_that_is_not_ours_is_an_error(host: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bound_socket(host, 0)


def test_everybody_may_reach_it_only_after_a_warning(tmp_path: Path) -> None:
    with running(write_export(tmp_path / "films"), "--host", "0.0.0.0") as service:
        assert service.stop() == 0
        assert service.process.stderr.read().startswith("warning: http://0.0.0.0:")


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("SHARDTOWER_API_KEY", raising=False)
    assert read_keys(None) == []
    monkeypatch.setenv("SHARDTOWER_API_KEY", "one")
    assert read_keys(None) == ["one"]
    file = tmp_path / "keys"
    file.write_text("two\n\n three \n")
    assert read_keys(file) == ["two", "three"]
    for text in ("", "   \n", "schlüssel", "two words"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="keys: "):
            read_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none")
