"""What preparing costs on one host and as a Spark job: rows a second and memory, on equal output.

    python -m tests.benchmarks.spark [--rows 1000000 10000000] [--cores 2] [--json FILE]

Made-up rows (`tests.benchmarks.data`) are written as a folder of Parquet, a file a million rows. Then
`python -m trainer prepare` and `launch/prepare_spark.py` in Spark's local mode prepare them, and what they
wrote is compared byte for byte. Memory and processor seconds are those of the process with all that it has
started (Java, Python workers), pages that they share counted once, sampled four times a second. Set
OMP_NUM_THREADS=1.
"""

import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import data

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("random", "leave_last_out")


def measured(command: list[str], cores: int) -> dict[str, float]:
    """Seconds and most memory, in MB, of a command and all that it starts."""
    arguments = f"--master local[{cores}] --conf spark.ui.enabled=false pyspark-shell"
    started, peak = time.perf_counter(), 0
    used: dict[int, float] = {}  # processor seconds of each process so far
    environment = os.environ | {"PYSPARK_SUBMIT_ARGS": arguments}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        whole = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, sample(whole, used))
            time.sleep(0.25)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "processor": sum(used.values()), "peak_mb": peak / data.MB}


def sample(whole: psutil.Process, used: dict[int, float]) -> int:
    """Bytes of memory of all processes now; `used` gets the processor seconds of each."""
    found = 0
    try:
        for process in (whole, *whole.children(recursive=True)):
            found += process.memory_full_info().pss
            times = process.cpu_times()
            used[process.pid] = times.user + times.system
    except psutil.Error:  # it has ended meanwhile
        pass
    return found


def differing(first: Path, second: Path) -> list[str]:
    """Names of files that are not the same in both folders; `meta.json` lists files in another order."""
    names = sorted({path.name for folder in (first, second) for path in folder.iterdir()} - {"meta.json"})
    _, different, missing = filecmp.cmpfiles(first, second, names, shallow=False)
    metas = [json.loads((folder / "meta.json").read_text()) for folder in (first, second)]
    return different + missing + (["meta.json"] if metas[0] != metas[1] else [])


def compared(rows: int, split: str, cores: int, folder: Path) -> dict[str, Any]:
    """Prepare `rows` rows both ways."""
    data.PART_CHUNKS = 1
    path = folder / f"parquet-{rows}"
    if not path.exists():
        data.write("parquet", rows, folder)
    found: dict[str, Any] = {"rows": rows, "split": split}
    options = ["--data.name", "files", "--data.interactions", str(path), "--data.split", split]
    commands = {"prepare": ["-m", "trainer", "prepare"], "spark": ["launch/prepare_spark.py"]}
    with tempfile.TemporaryDirectory(dir=folder) as caches:
        for way, command in commands.items():
            cache = ["--data.cache", str(Path(caches) / way)]
            done = measured([sys.executable, *command, *options, *cache], cores)
            found[way] = done | {"rows_per_second": rows / done["seconds"]}
        folders = [next((Path(caches) / way).iterdir()) for way in commands]
        found["differing"] = differing(*folders)
    return found


def shown(way: dict[str, float]) -> str:
    return (
        f"{way['seconds']:.1f} s ({way['processor']:.1f} s of processors), "
        f"{way['rows_per_second']:,.0f} rows/s, {way['peak_mb']:,.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--splits", nargs="+", default=SPLITS)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="where rows and caches lie, by default a temporary folder"
    )
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for rows in asked.rows:
            for split in asked.splits:
                found = compared(rows, split, asked.cores, folder)
                report.append(found)
                ways = "; ".join(f"{way} {shown(found[way])}" for way in ("prepare", "spark"))
                same = "equal" if not found["differing"] else f"DIFFERENT: {found['differing']}"
                print(f"{rows:,} rows, {split}: {ways}; {same}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
