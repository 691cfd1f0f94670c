"""What preparing costs each of several hosts that share users: seconds, peak memory, and disk.

    python -m tests.benchmarks.shares [--rows N] [--hosts 1,2,4] [--plain] [--split RULE] [--json FILE]

Made-up interactions (see `tests.benchmarks.data.chunks`) are written partitioned by user, and a process a
host prepares them, all at once on this machine. `--plain` writes one folder that every host streams whole.
The first line, of no sharing, is what each host takes without `--data.share users`. Memory is what a process
takes beyond that of preparing a thousand rows alike, which is libraries. Set OMP_NUM_THREADS=1.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from tests.benchmarks.data import MB, SCHEMA, chunks
from trainer.storage.user_buckets import MANIFEST, bucket_folder, manifest_text, user_buckets

ROOT = Path(__file__).resolve().parents[2]
BUCKETS = 8
MEASURED = """
import re, sys
from trainer.cli import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1])
sys.exit(code)
"""
"""Prints its peak memory in KiB: what `wait4` tells of a process includes that of its parent."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each number of hosts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--hosts", default="1,2,4")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--split", default="leave_last_out")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory(prefix="shares-") as name:
        folder = Path(name)
        write_interactions(folder / "few", 1000, partitioned=False)
        write_interactions(folder / "interactions", given.rows, partitioned=not given.plain)
        options = ["--data.name", "files", "--data.split", given.split]
        counts = [int(count) for count in given.hosts.split(",")]
        shared = ["--data.share", "users", "--run.choose", "false"]
        cases = [("no sharing", 1, options)] + [
            (f"{count} hosts", count, options + shared) for count in counts
        ]
        for place, (title, hosts, each) in enumerate(cases):
            few, many = (
                prepare_on(
                    count, folder / f"{name}-{place}", [*each, "--data.interactions", str(folder / name)]
                )
                for name, count in (("few", 1), ("interactions", hosts))
            )
            many["memory_mb"] = [peak - few["memory_mb"][0] for peak in many["memory_mb"]]
            found.append({"case": title, "rows": given.rows, **many})
            print(text(found[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def write_interactions(folder: Path, rows: int, *, partitioned: bool) -> None:
    """Write made-up interactions, a part file a bucket, or one file."""
    folder.mkdir()
    names = [bucket_folder(bucket) for bucket in range(BUCKETS)] if partitioned else ["."]
    if partitioned:
        (folder / MANIFEST).write_text(manifest_text(BUCKETS))
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    writers = [parquet.ParquetWriter(folder / name / "part-0.parquet", SCHEMA) for name in names]
    for table in chunks(rows):
        ids = table["user_id"].combine_chunks()
        buckets = user_buckets(ids, BUCKETS) if partitioned else np.zeros(len(ids), np.int32)
        for bucket, writer in enumerate(writers):
            writer.write_table(table.filter(pa.array(buckets == bucket)))
    for writer in writers:
        writer.close()


def prepare_on(hosts: int, caches: Path, options: Sequence[str]) -> dict[str, Any]:
    """Prepare by as many processes as hosts; returns seconds, and MB of memory and disk of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    variables = {"WORLD_SIZE": str(hosts), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    variables |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    started, processes = time.perf_counter(), []
    for host in range(hosts):
        place = str(caches / str(host))
        command = [sys.executable, "-c", MEASURED, "prepare", *options, "--data.cache", place, "--json"]
        environment = os.environ | variables | {"RANK": str(host)}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate()[0] for process in processes]
    if failed := [process.returncode for process in processes if process.returncode]:
        raise SystemExit(f"a host ended with {failed[0]}")
    memory = [int(each.split()[-1]) * 1024 / MB for each in printed]
    seconds = time.perf_counter() - started
    disk = [
        sum(path.stat().st_size for path in (caches / str(host)).rglob("*") if path.is_file()) / MB
        for host in range(hosts)
    ]
    return {"hosts": hosts, "seconds": seconds, "memory_mb": memory, "disk_mb": disk}


def text(found: dict[str, Any]) -> str:
    """Return one line of the table."""
    memory, disk = max(found["memory_mb"]), max(found["disk_mb"])
    return (
        f"{found['case']:<11} {found['rows']:>12,} rows  {found['seconds']:6.1f} s  "
        f"memory a host {memory:7,.0f} MB  disk a host {disk:7,.0f} MB"
    )


if __name__ == "__main__":
    main()
