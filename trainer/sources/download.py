"""MovieLens files that are not there yet: from GroupLens, or ml-100k from the wheel that RecBole publishes.

Messages and the progress bar (on a terminal only) go to stderr.
"""

import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.error import HTTPError

from filelock import FileLock
from tqdm import tqdm

from trainer.errors import DataError
from trainer.sources.movielens import GENRES, RELEASES

GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
MD5 = {  # as GroupLens publishes them; ml-latest-small changes, so that its own is fetched
    "ml-100k": "0e33842e24a9c977be4e0107933c0723",
    "ml-1m": "c4d9eecfca2ab87c1945afe126590906",
    "ml-10m": "ce571fd55effeba0271552578f2648bd",
    "ml-20m": "cd245b17a1ae2cc31bb14903e1204af3",
    "ml-25m": "6b51fb2759a8657d3bfcbfc42b592ada",
    "ml-32m": "d472be332d4daa821edc399621853b57",
}
RECBOLE = "recbole==1.2.1"
ATOMIC_HEADERS = {
    "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
    "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
}
TIMEOUT = 5.0  # seconds to connect, and between two pieces of an answer
ATTEMPTS = 5  # each resumes where the one before was cut off
PIECE = 1 << 20  # bytes


def ensure_movielens(
    name: str,
    root: Path,
    source: Literal["auto", "grouplens", "recbole", "none"],
    base_url: str = GROUPLENS,
    requirement: str = RECBOLE,
) -> Path:
    """Return the folder `root/name` with the files of a release, fetched if its ratings are not there.

    Files appear whole or not at all, the ratings last; files that are there already are kept. Processes that
    ask for the same release at once wait for one another.

    Args:
        name: Name of the release.
        root: Folder of all releases.
        source: Where to fetch from; `auto` tries each source in turn, `none` fetches nothing.
        base_url: Address of the archives, ending in a slash.
        requirement: The wheel that holds ml-100k, for pip: a name with its version, or a file.

    Raises:
        DataError: No source could give them; the message says how each failed.
    """
    folder = root / name
    if _is_there(name, folder):
        return folder
    sources = {"auto": ["grouplens", "recbole"], "none": []}.get(source, [source])
    if name != "ml-100k" and source == "auto":
        sources.remove("recbole")
    failures = []
    if sources:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            for left_over in root.glob(f".{name}-*"):  # of a process that was killed
                shutil.rmtree(left_over)
            for candidate in sources:
                if _is_there(name, folder):
                    return folder
                try:
                    if candidate == "grouplens":
                        _from_grouplens(name, root, base_url)
                    else:
                        _from_recbole(name, root, requirement)
                except _SourceError as failure:
                    failures.append(f"{candidate}: {failure}")
            if _is_there(name, folder):
                return folder
    tried = "; ".join(failures) or "--data.source none fetches nothing"
    raise DataError(
        f"{folder}: the files of {name} are not there ({tried}). Put {RELEASES[name].ratings} and the other "
        "files there, or name another source: --data.source auto|grouplens|recbole, "
        "or use made-up data: --data.name synthetic"
    )


class _SourceError(Exception):
    """A source did not give the files; the next one may."""


def _is_there(name: str, folder: Path) -> bool:
    return any((folder / file).is_file() for file in (RELEASES[name].ratings, "interactions.parquet"))


def _from_grouplens(name: str, root: Path, base_url: str) -> None:
    url = f"{base_url}{name}.zip"
    part = root / f".{name}.zip.part"
    _say(f"Fetching {url}")
    try:
        expected = MD5.get(name) or _published_md5(f"{url}.md5")
        _download(url, part)
    except (OSError, http.client.HTTPException) as error:
        raise _SourceError(f"{url}: {getattr(error, 'reason', None) or error}") from None
    found = _md5(part)
    if found != expected:
        part.unlink()
        raise _SourceError(f"{url}: MD5 is {found}, expected {expected}")
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as unpacked:
        _unpack(part, Path(unpacked))
        _publish(name, Path(unpacked), root / name)
    part.unlink()


def _published_md5(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        found = re.search(r"\b[0-9a-f]{32}\b", answer.read(1000).decode("ascii", "replace"))
    if not found:
        raise _SourceError(f"{url}: holds no MD5")
    return found[0]


def _download(url: str, part: Path) -> None:
    """Fetch `url` into `part`, resuming after the bytes that `part` already holds.

    Raises:
        OSError: An attempt makes no progress, or all ATTEMPTS have failed.
        HTTPException: The same, for a fault in the answer.
    """
    for attempt in range(ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return _receive(answer, part, have if answer.status == 206 else 0)
        except HTTPError as error:
            if error.code != 416:
                raise
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return None  # whole already, only not unpacked
            part.unlink()
        except (OSError, http.client.HTTPException):
            grown = part.exists() and part.stat().st_size > have
            if attempt == ATTEMPTS - 1 or not grown:
                raise
    raise OSError(f"no answer fits the {part.name} of an earlier attempt")


def _receive(answer: http.client.HTTPResponse, part: Path, start: int) -> None:
    length = int(answer.headers.get("Content-Length") or 0)
    received = 0
    with (
        part.open("ab" if start else "wb") as file,
        tqdm(
            total=start + length,
            initial=start,
            desc=part.name.removeprefix(".").removesuffix(".part"),
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        while piece := answer.read(PIECE):
            file.write(piece)
            received += len(piece)
            bar.update(len(piece))
    if received < length:
        raise OSError(f"cut off after {start + received:,} of {start + length:,} bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of the archive's one folder into `folder`, without what lies deeper."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                    raise _SourceError(
                        f"{archive.name}: its member {member.filename!r} points out of the folder"
                    )
                if not member.is_dir() and len(path.parts) <= 2:
                    with opened.open(member) as packed, (folder / path.name).open("wb") as file:
                        shutil.copyfileobj(packed, file, PIECE)
    except zipfile.BadZipFile as error:
        raise _SourceError(f"{archive.name}: {error}") from None


def _publish(name: str, unpacked: Path, folder: Path) -> None:
    """Move files into place, the ratings last: while they are missing, the release counts as not there."""
    ratings = RELEASES[name].ratings
    if not (unpacked / ratings).is_file():
        raise _SourceError(f"{ratings} is not in it")
    folder.mkdir(exist_ok=True)
    for path in sorted(unpacked.iterdir(), key=lambda path: path.name == ratings):
        if not (folder / path.name).exists():
            os.replace(path, folder / path.name)


def _from_recbole(name: str, root: Path, requirement: str) -> None:
    """Extract the files of ml-100k from the example in RecBole's wheel; nothing is installed.

    `u.data` and `u.user` are the official files byte for byte. In `u.item` the title, the year of the title
    and the genres are the official ones, but for accents (`Misérables` for `Miserables`, in 9 titles) and
    blanks at the end (3 titles); the address is empty, and the date is the first day of the title's year.
    """
    if name != "ml-100k":
        raise _SourceError("has ml-100k only")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--retries", "1", "--timeout", str(TIMEOUT), "--dest"]
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as scratch:
        wheels, files = Path(scratch, "wheels"), Path(scratch, "files")
        _say(f"Fetching ml-100k out of the wheel {requirement}")
        done = subprocess.run(
            [*command, str(wheels), requirement], capture_output=True, text=True, check=False
        )
        wheel = next(wheels.glob("*.whl"), None)
        if done.returncode or wheel is None:
            raise _SourceError(
                f"pip download {requirement}: {(done.stderr.strip().splitlines() or ['no wheel'])[-1]}"
            )
        files.mkdir()
        try:
            with zipfile.ZipFile(wheel) as opened:
                _rewrite_atomic_files(opened, files)
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise _SourceError(f"{wheel.name}: {error}") from None
        _publish(name, files, root / name)


def _rewrite_atomic_files(wheel: zipfile.ZipFile, folder: Path) -> None:
    """Write u.data, u.user and u.item.

    Raises:
        KeyError: A file is not in the wheel.
        ValueError: A file is not as expected.
    """
    texts = {}
    for kind in ("inter", "user", "item"):
        text = wheel.read(f"recbole/dataset_example/ml-100k/ml-100k.{kind}").decode()
        header, _, texts[kind] = text.partition("\n")
        if header != ATOMIC_HEADERS[kind]:
            raise ValueError(f"ml-100k.{kind} begins with {header!r}, expected {ATOMIC_HEADERS[kind]!r}")
    lines = []
    for line in texts["item"].splitlines():
        movie, title, year, genres = line.split("\t")
        date = f"01-Jan-{year}"
        if year == "unkonwn":
            title, date = "unknown", ""
        elif year == "V":  # RecBole took the last brackets of `... (1995) (V)` for the year
            title, date = f"{title} (V)", f"01-Jan-{title[-5:-1]}"
        else:
            title = f"{title} ({year})"
        flags = "|".join(str(int(genre in genres.split(" "))) for genre in GENRES)
        lines.append(f"{movie}|{title}|{date}|||{flags}\n")
    (folder / "u.data").write_bytes(texts["inter"].encode())
    (folder / "u.user").write_bytes(texts["user"].replace("\t", "|").encode("latin-1"))
    (folder / "u.item").write_bytes("".join(lines).encode("latin-1", "replace"))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
