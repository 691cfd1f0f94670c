"""Hosts on one machine: network namespaces on a common bridge, each with an address and shared memory."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "multi_node.sh"
AS_A_HOST = 'hostname "$0" && mount -t tmpfs tmpfs /dev/shm && exec "$@"'


def namespaces_are_allowed() -> bool:
    """Whether this process may make network namespaces."""
    if not (shutil.which("ip") and shutil.which("unshare")):
        return False
    name = f"sp{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode != 0:
        return False
    tried = subprocess.run(
        ["ip", "netns", "exec", name, "unshare", "-um", "bash", "-c", AS_A_HOST, "probe", "true"],
        capture_output=True,
    )
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return tried.returncode == 0


class Hosts:
    """Hosts 10.77.0.1, 10.77.0.2, ... which one switch connects."""

    def __init__(self, count: int) -> None:
        """Make the namespaces; names hold the process id, so that test processes do not meet."""
        self.bridge, self.count = f"sb{os.getpid()}", count
        self.started: list[subprocess.Popen[str]] = []

    def name(self, host: int) -> str:
        return f"sh{os.getpid()}-{host}"

    def link(self, host: int) -> str:
        return f"sv{os.getpid()}-{host}"

    def connect(self) -> None:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("link", "set", self.bridge, "up")
        for host in range(1, self.count + 1):
            name, link = self.name(host), self.link(host)
            ip("netns", "add", name)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", link, "master", self.bridge, "up")
            ip("-n", name, "addr", "add", f"10.77.0.{host}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def start(
        self, host: int, folder: Path, options: Sequence[str], **variables: str
    ) -> subprocess.Popen[str]:
        """The launch script on a host; it writes to a file, as nobody reads a pipe meanwhile."""
        usual = {
            "SHARDTOWER_NODES": str(self.count),
            "SHARDTOWER_ENDPOINT": "10.77.0.1:29400",
            "SHARDTOWER_RANKS": "2",
            "SHARDTOWER_JOIN_SECONDS": "60",
            "SHARDTOWER_PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        place = ["ip", "netns", "exec", self.name(host), "unshare", "-um", "bash", "-c", AS_A_HOST]
        with (folder / f"host{host}.log").open("a") as log:
            process = subprocess.Popen(
                [*place, f"host{host}", "bash", str(SCRIPT), *options],
                cwd=folder,
                env=os.environ | usual | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def cut_off(self, host: int) -> None:
        """Pull the plug of a host's network."""
        ip("link", "set", self.link(host), "down")

    def bring_back(self, host: int) -> None:
        ip("link", "set", self.link(host), "up")

    def remove(self) -> None:
        for process in self.started:
            kill(process)
        for host in range(1, self.count + 1):
            subprocess.run(["ip", "netns", "del", self.name(host)], capture_output=True)
            subprocess.run(["ip", "link", "del", self.link(host)], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill all processes of a host at once."""
    if process.poll() is None:
        launcher = psutil.Process(process.pid)
        for each in [launcher, *launcher.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
        process.wait()


@contextmanager
def connected(count: int) -> Iterator[Hosts]:
    hosts = Hosts(count)
    try:
        hosts.connect()
        yield hosts
    finally:
        hosts.remove()
