"""Fetching MovieLens from a server on this machine that cuts connections, lies and is missing."""

import hashlib
import io
import multiprocessing
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainer.errors import DataError
from trainer.sources import download
from trainer.sources.download import ensure_movielens
from trainer.sources.movielens import GENRES, read_movielens

RATINGS = b"".join(b"%d::%d::4::978300760\n" % (n, n * n) for n in range(1, 20_000))


def archive(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:  # stored, so that it is long enough to be cut
        for name, content in members.items():
            opened.writestr(name, content)
    return packed.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files`; `cuts` says after how many bytes of which answers the connection breaks."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append((self.path, wanted))
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start:end])
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    tower_pairs = Server()
    thread = threading.Thread(target=tower_pairs.serve_forever, args=(0.01,))
    thread.start()
    yield tower_pairs
    tower_pairs.shutdown()
    thread.join()
    tower_pairs.server_close()


@pytest.fixture
def ml_1m(server, monkeypatch) -> bytes:
    packed = archive({"ml-1m/": b"", "ml-1m/ratings.dat": RATINGS, "ml-1m/README": b"terms"})
    server.files["/ml-1m.zip"] = packed
    monkeypatch.setitem(download.MD5, "ml-1m", hashlib.md5(packed).hexdigest())
    return packed


def visible(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".ml-1m.lock")


def test_a_release_is_fetched_once(tmp_path, server, ml_1m):
    for _ in range(2):
        assert ensure_movielens("ml-1m", tmp_path, "auto", server.url) == tmp_path / "ml-1m"
    assert (tmp_path / "ml-1m" / "ratings.dat").read_bytes() == RATINGS
    assert visible(tmp_path) == ["ml-1m", "ml-1m/README", "ml-1m/ratings.dat"]
    assert server.asked == [("/ml-1m.zip", None)]


@pytest.mark.parametrize("file", ["ratings.dat", "interactions.parquet"])
def test_files_that_are_there_are_used_and_nothing_is_fetched(tmp_path, file):
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / file).touch()
    assert ensure_movielens("ml-1m", tmp_path, "none") == tmp_path / "ml-1m"
    assert visible(tmp_path) == ["ml-1m", f"ml-1m/{file}"]


def test_files_of_the_user_are_kept(tmp_path, server, ml_1m):
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "README").write_bytes(b"mine")
    ensure_movielens("ml-1m", tmp_path, "grouplens", server.url)
    assert (tmp_path / "ml-1m" / "README").read_bytes() == b"mine"
    assert (tmp_path / "ml-1m" / "ratings.dat").read_bytes() == RATINGS


def test_the_folder_has_the_name_of_the_release_whatever_the_archive_calls_it(tmp_path, server, monkeypatch):
    packed = archive({"ml-10M100K/ratings.dat": RATINGS})
    server.files["/ml-10m.zip"] = packed
    monkeypatch.setitem(download.MD5, "ml-10m", hashlib.md5(packed).hexdigest())
    assert (ensure_movielens("ml-10m", tmp_path, "auto", server.url) / "ratings.dat").is_file()


def test_a_cut_connection_is_taken_up_where_it_broke(tmp_path, server, ml_1m):
    server.cuts = [100_000, 50_000]
    ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "ml-1m" / "ratings.dat").read_bytes() == RATINGS


def test_an_interrupted_download_is_taken_up_by_the_next_run(tmp_path, server, ml_1m):
    server.cuts = [100_000, 0]  # the second attempt gets no further, which ends the first run
    with pytest.raises(DataError, match="cut off after 100,000 of"):
        ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    assert visible(tmp_path) == [".ml-1m.zip.part"]
    ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    assert server.asked[-1] == ("/ml-1m.zip", "bytes=100000-")
    assert visible(tmp_path) == ["ml-1m", "ml-1m/README", "ml-1m/ratings.dat"]


def test_a_server_without_ranges_begins_anew(tmp_path, server, ml_1m):
    server.cuts, server.ranges = [100_000], False
    ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    assert (tmp_path / "ml-1m" / "ratings.dat").read_bytes() == RATINGS


def test_a_whole_archive_that_was_not_unpacked_is_not_fetched_again(tmp_path, server, ml_1m):
    (tmp_path / ".ml-1m.zip.part").write_bytes(ml_1m)
    ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    assert server.asked == [("/ml-1m.zip", f"bytes={len(ml_1m)}-")]
    assert (tmp_path / "ml-1m" / "ratings.dat").read_bytes() == RATINGS


def test_a_part_that_is_longer_than_the_archive_is_thrown_away(tmp_path, server, ml_1m):
    (tmp_path / ".ml-1m.zip.part").write_bytes(ml_1m + b"more")
    ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    assert (tmp_path / "ml-1m" / "ratings.dat").read_bytes() == RATINGS


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path, server, ml_1m):
    server.files["/ml-1m.zip"] = archive({"ml-1m/ratings.dat": b"other"})
    with pytest.raises(DataError, match=rf"MD5 is [0-9a-f]{{32}}, expected {download.MD5['ml-1m']}"):
        ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    assert visible(tmp_path) == []


def test_the_checksum_of_a_release_that_changes_is_fetched(tmp_path, server):
    packed = archive({"ml-latest-small/ratings.csv": b"userId"})
    server.files["/ml-latest-small.zip"] = packed
    server.files["/ml-latest-small.zip.md5"] = f"{hashlib.md5(packed).hexdigest()}  x.zip\n".encode()
    assert (ensure_movielens("ml-latest-small", tmp_path, "auto", server.url) / "ratings.csv").is_file()


@pytest.mark.parametrize("member", ["../evil", "/evil", "ml-1m/../../evil", "ml-1m\\..\\evil"])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path, server, monkeypatch, member):
    packed = archive({member: b"x", "ml-1m/ratings.dat": RATINGS})
    server.files["/ml-1m.zip"] = packed
    monkeypatch.setitem(download.MD5, "ml-1m", hashlib.md5(packed).hexdigest())
    with pytest.raises(DataError, match="points out of the folder"):
        ensure_movielens("ml-1m", tmp_path / "root", "auto", server.url)
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "root" / "ml-1m").exists()


def test_one_line_says_what_was_tried_and_the_ways_on(tmp_path, server):
    with pytest.raises(DataError) as error:
        ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'ml-1m'}: the files of ml-1m are not there (grouplens: {server.url}")
    assert "404" in text or "Not Found" in text
    for way in ("Put ratings.dat and the other files there", "--data.source", "--data.name synthetic"):
        assert way in text
    assert "\n" not in text


def test_a_server_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(DataError, match="Connection refused"):
        ensure_movielens("ml-1m", tmp_path, "grouplens", "http://127.0.0.1:9/")


def test_source_none_fetches_nothing(tmp_path):
    with pytest.raises(DataError, match=r"--data\.source none fetches nothing"):
        ensure_movielens("ml-1m", tmp_path / "root", "none")
    assert not (tmp_path / "root").exists()


def test_what_a_killed_process_left_is_removed(tmp_path, server, ml_1m):
    (tmp_path / ".ml-1m-abc").mkdir()
    (tmp_path / ".ml-1m-abc" / "ratings.dat").touch()
    ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    assert visible(tmp_path) == ["ml-1m", "ml-1m/README", "ml-1m/ratings.dat"]


def test_processes_that_ask_at_once_fetch_once(tmp_path, server, ml_1m):
    context = multiprocessing.get_context("fork")  # so that they share the made-up checksum
    processes = [
        context.Process(target=ensure_movielens, args=("ml-1m", tmp_path, "auto", server.url))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(server.asked) == 1
    assert (tmp_path / "ml-1m" / "ratings.dat").read_bytes() == RATINGS


def wheel_of_recbole(folder: Path, header: str = "user_id:token\titem_id:token\trating:float") -> Path:
    example, info = "recbole/dataset_example/ml-100k/ml-100k", "recbole-1.2.1.dist-info"
    path = folder / "recbole-1.2.1-py3-none-any.whl"
    path.write_bytes(
        archive(
            {
                f"{example}.inter": f"{header}\ttimestamp:float\n196\t242\t3\t881250949\n".encode(),
                f"{example}.user": (
                    b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
                    b"196\t49\tM\twriter\t55105\n"
                ),
                f"{example}.item": (
                    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
                    "242\tMisérables, Les\t1995\tDrama Sci-Fi\n"
                    "267\tunkonwn\tunkonwn\tunknown\n"
                    "1412\tLand Before Time III (1995)\tV\tAnimation Children's\n"
                ).encode(),
                f"{info}/METADATA": b"Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
                f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{info}/RECORD": b"",
            }
        )
    )
    return path


def test_ml_100k_comes_out_of_the_wheel_where_grouplens_is_silent(tmp_path, server):
    root = tmp_path / "data"
    folder = ensure_movielens("ml-100k", root, "auto", server.url, str(wheel_of_recbole(tmp_path)))
    assert (folder / "u.data").read_bytes() == b"196\t242\t3\t881250949\n"
    assert (folder / "u.user").read_bytes() == b"196|49|M|writer|55105\n"
    flags = "|".join("1" if genre in ("Drama", "Sci-Fi") else "0" for genre in GENRES)
    first = (folder / "u.item").read_text("latin-1").splitlines()[0]
    assert first == f"242|Misérables, Les (1995)|01-Jan-1995|||{flags}"
    items = read_movielens("ml-100k", folder, "error").items.to_pydict()
    assert items["title"][1:] == ["unknown", "Land Before Time III (1995) (V)"]
    assert items["genres"] == [["Drama", "Sci-Fi"], [], ["Animation", "Children's"]]
    assert items["release_year"] == [1995, None, 1995]
    assert sorted(path.name for path in root.iterdir()) == [".ml-100k.lock", "ml-100k"]


def test_a_wheel_of_another_form_is_refused(tmp_path):
    wheel = str(wheel_of_recbole(tmp_path, "user:token"))
    with pytest.raises(DataError, match=r"recbole: .*ml-100k.inter begins with 'user:token"):
        ensure_movielens("ml-100k", tmp_path / "data", "recbole", requirement=wheel)
    assert not (tmp_path / "data" / "ml-100k").exists()


def test_recbole_has_no_other_release(tmp_path):
    with pytest.raises(DataError, match="recbole: has ml-100k only"):
        ensure_movielens("ml-1m", tmp_path, "recbole")


def test_nothing_is_written_to_stdout(tmp_path, server, ml_1m, capsys):
    ensure_movielens("ml-1m", tmp_path, "auto", server.url)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"Fetching {server.url}ml-1m.zip\n"  # no bar where there is no terminal
