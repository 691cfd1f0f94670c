"""`serve` under bounded load on loopback: requests a second, times, memory, and swaps without a lost request.

Clients in one process of their own keep a connection each and send a request as soon as the answer to the
one before is there: first for users alone, then a mixture of all kinds. The folder that is served is a link,
which is switched to a copy of the export and back while they go on. Client and service share the machine.

    python -m tests.benchmarks.service EXPORT [--clients 8] [--seconds 20] [--swaps 3]
"""

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WARM_UP = 3.0
"""Seconds of load before anything is counted."""


class Kind(NamedTuple):
    """A kind of request: its name, its share of all in percent, and what makes one."""

    name: str
    share: int
    make: Any


class Answered(NamedTuple):
    """An answer: kind, seconds, and whether it was the right one."""

    kind: str
    seconds: float
    good: bool


def kinds(users: list[str], items: list[str], titles: list[str], attribute: str | None) -> list[Kind]:
    """Return the kinds of requests, each of which makes method, address and body at random."""
    where = f"&where={attribute}" if attribute else ""
    one = random.choice
    return [
        Kind("user, k 10", 50, lambda: ("GET", f"/users/{one(users)}/recommendations?k=10", None)),
        Kind(
            "user, k 10, filter, reasons",
            15,
            lambda: ("GET", f"/users/{one(users)}/recommendations?k=10&why=3{where}", None),
        ),
        Kind(
            "history of 5", 15, lambda: ("POST", "/recommend", {"history": random.sample(items, 5), "k": 10})
        ),
        Kind("similar, k 10", 10, lambda: ("GET", f"/items/{one(items)}/similar?k=10", None)),
        Kind("titles, as typed", 10, lambda: ("GET", f"/items?title={one(titles)[:5]}", None)),
    ]


def client(port: int, made: list[Kind], seconds: float, answers: list[Answered]) -> None:
    """Send requests over one connection until the time is up; a connection that breaks is a lost request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    shares = [kind.share for kind in made]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        (kind,) = random.choices(made, shares)
        method, address, body = kind.make()
        headers = {"Content-Type": "application/json"} if body else {}
        began = time.perf_counter()
        try:
            connection.request(method, address, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            good = answer.status == 200 and "items" in json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            good = False
            connection.close()
        answers.append(Answered(kind.name, time.perf_counter() - began, good))


def load(port: int, made: list[Kind], clients: int, seconds: float) -> list[Answered]:
    """Return the answers that so many clients got in so many seconds."""
    answers: list[list[Answered]] = [[] for _ in range(clients)]
    threads = [
        threading.Thread(target=client, args=(port, made, seconds, answers[number]))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for own in answers for each in own]


def resident(process: int) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000


def ask(port: int, address: str) -> dict[str, Any]:
    """Return the JSON of an address."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", address)
    return json.loads(connection.getresponse().read())


def swapping(link: Path, folders: list[Path], pauses: float, count: int) -> None:
    """Switch the link to the next folder, again and again."""
    for number in range(count):
        time.sleep(pauses)
        beside = link.with_name("beside")
        beside.symlink_to(folders[(number + 1) % len(folders)])
        os.replace(beside, link)


def table(answers: list[Answered], seconds: float) -> str:
    """Return times by kind of request as text."""
    by_kind = defaultdict(list)
    for each in answers:
        by_kind[each.kind].append(1000 * each.seconds)
        by_kind["all"].append(1000 * each.seconds)
    lines = [f"{'':<30}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}"]
    for kind in (*sorted(set(by_kind) - {"all"}), "all"):
        p50, p99 = np.percentile(by_kind[kind], [50, 99])
        lines.append(f"{kind:<30}{len(by_kind[kind]) / seconds:>12,.0f}{p50:>9.1f}{p99:>9.1f}")
    return "\n".join(lines)


def measure(export: Path, clients: int, seconds: float, swaps: int) -> None:
    """Serve an export, put it under load, and print what came of it."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(shutil.copytree(export, Path(temporary) / name)) for name in ("first", "second")]
        link = Path(temporary) / "served"
        link.symlink_to(folders[0])
        command = [sys.executable, "-m", "trainer", "serve", str(link), "--port", "0"]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
        print(f"ready after {time.perf_counter() - began:.2f} s")
        users = ask(port, "/users?limit=100&at_random=true")["users"]
        best = ask(port, f"/users/{users[0]}/recommendations?k=100")["items"]
        attributes = [each for each in ask(port, "/attributes")["attributes"] if each["values"]]
        attribute = f"{attributes[0]['name']}={attributes[0]['values'][0][0]}" if attributes else None
        titles = [
            each["title"].replace(" ", "+") for each in best if each["title"] and each["title"].isascii()
        ]
        made = kinds(users, [each["item"] for each in best], titles or ["a"], attribute)
        load(port, made, clients, WARM_UP)
        memory = [resident(process.pid)]
        for name, asked, count in (("users alone", made[:1], 0), ("all", made, 0), ("all", made, swaps)):
            switching = threading.Thread(
                target=swapping, args=(link, folders, seconds / (swaps + 1), count), daemon=True
            )
            switching.start()
            answers = load(port, asked, clients, seconds)
            switching.join()
            memory.append(resident(process.pid))
            lost = sum(not each.good for each in answers)
            load_text = f"{name}, {clients} clients, {seconds:g} s, {count} swaps"
            print(f"\n{load_text}: {len(answers):,} requests, {lost} lost")
            print(table(answers, seconds))
        health = ask(port, "/health")
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        print(f"\nswaps seen by the service: {health['swaps']}, refused: {health['refused']}")
        print("resident MB after warm-up and each load: " + ", ".join(f"{each:.0f}" for each in memory))
        print(f"ended with code {code}")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--swaps", type=int, default=3)
    options = parser.parse_args()
    measure(options.export, options.clients, options.seconds, options.swaps)


if __name__ == "__main__":
    main()
