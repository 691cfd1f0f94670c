"""The host: its name, its clock, the limits of a process, and the terminal."""

import locale
import os
import resource
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trainer
from trainer.doctor.findings import Facts, Verdict
from trainer.formatting import format_bytes

NAME_SECONDS = 10
"""How long the system may look for a name."""
CLOCK_SECONDS = 3600
"""How far the clock may be behind the files of this package."""
TWENTY_YEARS = 20 * 365 * 86400
OPEN_FILES, PROCESSES, LOCKED = 4096, 4096, 64 * 2**20
"""What a process should be allowed: files and sockets, processes and threads of the user, bytes of memory."""


def look_name() -> Facts:
    """Return whether the host's own name and localhost have an address, and whether that is reached."""
    name = socket.gethostname()
    return {
        "name": name,
        "resolves": _resolves(name),
        "localhost_resolves": _resolves("localhost"),
        "loopback": _reaches_itself(),
    }


def _reaches_itself() -> bool:
    """Return whether processes of this host reach each other, for which the loopback interface must be up."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError:
        return False
    return True


def _resolves(name: str) -> bool:
    """Return whether a name has an address; the system may look for it longer than we wait."""
    found: list[bool] = []

    def look() -> None:
        try:
            found.append(bool(socket.getaddrinfo(name, None)))
        except (OSError, UnicodeError):
            found.append(False)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(NAME_SECONDS)
    return found == [True]


def judge_name(facts: Facts) -> Verdict:
    """Judge whether ranks can meet."""
    name = facts["name"]
    line = f"echo '127.0.0.1 {{}}' | {'' if os.geteuid() == 0 else 'sudo '}tee -a /etc/hosts"
    if not facts["localhost_resolves"]:
        words = "localhost has no address, and that is where the ranks of a host meet"
        return Verdict("error", words, "Name it in /etc/hosts", (line.format("localhost"),))
    if not facts["loopback"]:
        words = "nothing reaches 127.0.0.1, where the ranks of a host meet: is its interface down?"
        command = f"{'' if os.geteuid() == 0 else 'sudo '}ip link set lo up"
        return Verdict("error", words, "Bring it up", (command,))
    if not facts["resolves"]:
        return Verdict(
            "warning",
            f"{name}, the name of this host, has no address: torchrun --standalone waits for ever",
            "Start with launch/ranks.py, which needs no name, or torchrun --local-addr localhost; or name it",
            (line.format(name),),
        )
    return Verdict("ok", f"{name} has an address")


def look_clock() -> Facts:
    """Return the time, and that of the newest file of this package."""
    files = Path(trainer.__file__).parent.glob("*.py")
    return {"now": time.time(), "package": max(path.stat().st_mtime for path in files)}


def judge_clock(facts: Facts) -> Verdict:
    """Judge whether the clock can be right: it is not before the package was made."""
    now, package = facts["now"], facts["package"]
    shown = _date(now)
    advice = "Set the clock; a container has its host's"
    command = (f"{'' if os.geteuid() == 0 else 'sudo '}timedatectl set-ntp true",)
    consequence = "certificates are refused, and runs are listed in a wrong order"
    if now < package - CLOCK_SECONDS:
        words = f"{shown}, before this package was written ({_date(package)}): {consequence}"
        return Verdict("warning", words, advice, command)
    if now > package + TWENTY_YEARS:
        return Verdict(
            "warning", f"{shown}: more than 20 years after this package: {consequence}", advice, command
        )
    return Verdict("ok", f"{shown}")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def look_limit(name: str) -> Facts:
    """Return the limits of this process that the resource module knows by a name; None: unlimited."""
    limits = resource.getrlimit(getattr(resource, name))
    soft, hard = (None if limit == resource.RLIM_INFINITY else limit for limit in limits)
    return {"soft": soft, "hard": hard}


def judge_open_files(facts: Facts) -> Verdict:
    """Judge the number of files that a process may have open: memory-mapped columns, connections, indexes."""
    words = f"{_limit(facts['soft'])} files and connections a process"
    if _enough(facts["soft"], OPEN_FILES):
        return Verdict("ok", words)
    severity = "note" if _enough(facts["soft"], 1024) else "warning"
    if _enough(facts["hard"], OPEN_FILES):
        advice = "Where many ranks or files are used, raise it before the start"
        return Verdict(severity, words, advice, (f"ulimit -n {OPEN_FILES}",))
    advice = f"The hard limit is {_limit(facts['hard'])}: raise it in /etc/security/limits.conf"
    return Verdict(severity, words, f"{advice}, or with docker run --ulimit nofile={OPEN_FILES}")


def judge_processes(facts: Facts) -> Verdict:
    """Judge the number of processes and threads that a user may have."""
    words = f"{_limit(facts['soft'])} processes and threads a user"
    if _enough(facts["soft"], PROCESSES):
        return Verdict("ok", words)
    severity = "note" if _enough(facts["soft"], 512) else "warning"
    advice = "Threads of ranks count too. Raise it, or set OMP_NUM_THREADS=1"
    command = (f"ulimit -u {PROCESSES}",) if _enough(facts["hard"], PROCESSES) else ()
    return Verdict(severity, words, advice, command)


def judge_locked_memory(facts: Facts) -> Verdict:
    """Judge how much memory may be locked, which network cards that write into it need."""
    if _enough(facts["soft"], LOCKED):
        shown = "unlimited" if facts["soft"] is None else format_bytes(facts["soft"])
        return Verdict("ok", f"{shown} may be locked")
    return Verdict(
        "note",
        f"{format_bytes(facts['soft'])} may be locked: enough but for InfiniBand and RoCE between hosts",
        "For these, raise memlock in /etc/security/limits.conf, or with docker run --ulimit memlock=-1",
    )


def judge_core_dumps(facts: Facts) -> Verdict:
    """Judge what a crash leaves on the disk."""
    if facts["soft"] == 0:
        return Verdict("ok", "a process that crashes leaves no image of its memory")
    size = "as large as its memory" if facts["soft"] is None else f"of up to {format_bytes(facts['soft'])}"
    words = f"a process that crashes may leave an image of its memory on the disk, {size}"
    return Verdict("note", words, "Unless it is wanted, turn it off before the start", ("ulimit -c 0",))


def _enough(limit: int | None, wanted: int) -> bool:
    return limit is None or limit >= wanted


def _limit(limit: int | None) -> str:
    return "unlimited" if limit is None else f"{limit:,}"


def look_terminal() -> Facts:
    """Return the encodings of output and of file names."""
    stdout: Any = sys.stdout
    return {
        "stdout": getattr(stdout, "encoding", None) or "unknown",
        "files": sys.getfilesystemencoding(),
        "locale": locale.getlocale()[0] or os.environ.get("LC_ALL") or os.environ.get("LANG") or "none",
    }


def judge_terminal(facts: Facts) -> Verdict:
    """Judge whether titles in any script can be shown."""
    if all(facts[name].lower().replace("-", "") == "utf8" for name in ("stdout", "files")):
        return Verdict("ok", "UTF-8")
    words = f"output is {facts['stdout']}, file names are {facts['files']} (locale: {facts['locale']})"
    advice = "Characters that it lacks are shown as ?. To see them"
    return Verdict("note", words, advice, ("export PYTHONIOENCODING=utf-8 PYTHONUTF8=1",))
