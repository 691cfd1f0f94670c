"""A service in a process of its own, over the small world, reached over loopback."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, resource, sys
from tests.service.standin import StandIn
from trainer.service import server
from trainer.cli import main
if "FILES" in os.environ:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(os.environ["FILES"]), int(os.environ["FILES"])))
StandIn.slow = float(os.environ.get("SLOW", 0))
server._recommender_opener = lambda: StandIn.open
sys.exit(main(["serve", *sys.argv[1:]]))
"""


class Service:
    """A running service.

    Attributes:
        process: Its process.
        url: Where it answers.
    """

    def __init__(self, process: subprocess.Popen, url: str) -> None:
        self.process, self.url = process, url
        self.port = int(url.rstrip("/").rpartition(":")[2])

    def health(self) -> dict:
        return httpx.get(f"{self.url}health").json()

    def wait_for(self, what, seconds: float = 20) -> dict:
        """Return the first health of which `what` is true."""
        end = time.monotonic() + seconds
        while not what(health := self.health()):
            assert time.monotonic() < end, health
            time.sleep(0.05)
        return health

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def running(folder: Path, *options: str, **environment: str) -> Iterator[Service]:
    """Serve a folder at a free port until the block ends."""
    process = start(folder, "--port", "0", *options, **environment)
    try:
        line = process.stdout.readline()
        match = re.search(r"http://\S+", line)
        assert match, (line, process.stderr.read() if process.poll() is not None else "")
        yield Service(process, match[0])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def start(folder: Path, *options: str, **environment: str) -> subprocess.Popen:
    """Start the command without waiting for it."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
