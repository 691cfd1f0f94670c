"""Object stores for tests: in memory, for one process, and S3 over HTTP on a free loopback port."""

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import s3fs

from trainer.object_storage import store

NUMBERS = itertools.count()
BUCKET = "bucket"


@contextmanager
def memory_store(folder: Path) -> Iterator[str]:
    """Address of an empty store in memory, whose local copies lie in `folder`."""
    with mock.patch.dict(os.environ, cache_of(folder) | {"SHARDTOWER_STORE_LEASE_SECONDS": "0.4"}):
        yield f"memory://{BUCKET}-{next(NUMBERS)}"


def cache_of(folder: Path) -> dict[str, str]:
    """Environment of a host whose caches lie in `folder`."""
    return {"XDG_CACHE_HOME": str(folder), "SHARDTOWER_STORE_CACHE": str(folder / "objects")}


def client_environment(port: int) -> dict[str, str]:
    """Environment of clients of a server on this machine."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


@contextmanager
def s3_server() -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves S3 with an empty `BUCKET`; this process and those it starts are its clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with as_client(client_environment(port)):
            _make_bucket(f"http://127.0.0.1:{port}/{BUCKET}")
            yield server
    finally:
        server.kill()
        server.wait()


@contextmanager
def as_client(variables: Mapping[str, str]) -> Iterator[None]:
    """Make this process a client of a server, as ranks have the environment that their fork server had."""
    with mock.patch.dict(os.environ, variables), mock.patch.dict(store._FS, clear=True):
        s3fs.S3FileSystem.clear_instance_cache()
        yield


def variables_of_client() -> dict[str, str]:
    """The variables that make another process a client of the server of this one."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def _make_bucket(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server does not come up")
