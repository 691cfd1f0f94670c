"""What preparing data and starting a command cost.

    python -m tests.benchmarks.data [notebook|csv|parquet|start ...] [--rows N] [--json FILE]

`notebook` turns the text of MovieLens 1M into the prepared form, beside the notebook's reading and mapping
alone. `csv` and `parquet` prepare made-up interactions of three sizes, each in a process of its own: seconds,
peak memory, and the same command once more. `start` times commands from the shell. `--rows` is the largest
size (25,000,000 lines of CSV, 100,000,000 rows of Parquet). Set OMP_NUM_THREADS=1.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from tests.benchmarks.notebook import read_and_map
from trainer.config.parser import parse_config
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("notebook", "csv", "parquet", "start")
ROWS = {"csv": 25_000_000, "parquet": 100_000_000}
REPEATS = 5
CHUNK = 1 << 20  # rows made up at a time
PART_CHUNKS = 4  # in a file of the Parquet folder
SCHEMA = pa.schema(
    {"user_id": pa.int64(), "item_id": pa.int64(), "value": pa.float32(), "timestamp": pa.int64()}
)
MB = 1_000_000


def chunks(rows: int) -> Iterator[pa.Table]:
    """Made-up ratings in order of time; a user has 150 on average, every 100th pair stands twice.

    The pairs are those of a walk in equal strides through all pairs of users and items: each is met once, and
    neighbours have nothing in common, so that no cache helps to look ids up. Nothing grows with `rows`.
    """
    users, items = max(rows // 150, 10), min(max(rows // 500, 500), 60_000)
    pairs = users * items
    stride = next(each for each in range(int(pairs * 0.618034), pairs) if math.gcd(each, pairs) == 1)
    for first in range(0, rows, CHUNK):
        row = np.arange(first, min(first + CHUNK, rows))
        place = row - row // 100  # every 100th row repeats the pair before
        start = int(place[0]) * stride % pairs
        user, item = np.divmod((start + (place - place[0]) * stride) % pairs, items)
        value = (1 + (user + item) % 10) / 2
        yield pa.table(
            [user * 3 + 1, item * 7 + 5, value.astype(np.float32), 1_000_000_000 + row * 2 + item % 2],
            schema=SCHEMA,
        )


def write(kind: str, rows: int, folder: Path) -> Path:
    """A CSV file, or a folder of Parquet files, of so many rows."""
    path = folder / f"{kind}-{rows}"
    if kind == "csv":
        with csv.CSVWriter(path, SCHEMA) as file:
            for table in chunks(rows):
                file.write_table(table)
        return path
    path.mkdir()
    tables = chunks(rows)
    for part, first in enumerate(range(0, rows, CHUNK * PART_CHUNKS)):
        with parquet.ParquetWriter(path / f"part-{part:05}.parquet", SCHEMA) as file:
            for table in islice(tables, min(PART_CHUNKS, -(-(rows - first) // CHUNK))):
                file.write_table(table)
    return path


@dataclass(frozen=True)
class Done:
    """A process that has ended: wall and processor seconds, and its most memory in bytes (VmHWM)."""

    seconds: float
    processor: float
    peak: int


def run(command: list[str], code: int = 0) -> Done:
    """Run a command; it must end with the exit code."""
    started, before, peak = time.perf_counter(), os.times(), 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
            peak = max(peak, int(found[1]) * 1024 if found else 0)
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        assert process.stderr is not None
        if process.returncode != code:
            sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{process.stderr.read().decode()}")
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Done(seconds, processor, peak)


def trainer(*arguments: str | Path) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", "trainer", *map(str, arguments)]


def prepared(kind: str, rows: int) -> dict[str, float]:
    """Seconds and peak memory of one size, and of starting again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write(kind, rows, folder)
        size = sum(file.stat().st_size for file in ([path] if kind == "csv" else path.iterdir()))
        options = ["--data.name", "files", "--data.format", kind, "--data.interactions", str(path)]
        options += ["--data.cache", str(folder / "cache")]
        first = run(trainer("prepare", *options))
        again = [run(trainer("prepare", *options)).seconds for _ in range(REPEATS)]
        data = parse_config(options).data
        opening = [seconds(lambda: open_dataset(prepare_data(data))) for _ in range(REPEATS)]
        return {
            "rows": rows,
            "input_bytes": size,
            "prepared_bytes": sum(file.stat().st_size for file in prepare_data(data).iterdir()),
            "seconds": first.seconds,
            "processor_seconds": first.processor,
            "peak_bytes": first.peak,
            "again_seconds": median(again),
            "opening_seconds": median(opening),
        }


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Timed:
    """Wall and processor seconds of several calls."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def add(self, work: Callable[[], object]) -> None:
        """Time one more call."""
        before = time.process_time()
        self.wall.append(seconds(work))
        self.processor.append(time.process_time() - before)

    def medians(self) -> dict[str, float]:
        """By what was measured."""
        return {"seconds": median(self.wall), "processor_seconds": median(self.processor)}


def beside_the_notebook() -> dict[str, dict[str, float]]:
    """Seconds of the notebook's reading and mapping, and of ours from text to the prepared form."""
    theirs, ours = Timed(), Timed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ml_1m = write_ml_1m(folder)
        options = ["--data.name", "ml-1m", "--data.root", str(folder), "--data.cache", str(folder / "cache")]
        data = parse_config(options).data
        for _ in range(REPEATS):  # in turn, so that what else the machine does meets both
            theirs.add(lambda: read_and_map(ml_1m))
            shutil.rmtree(folder / "cache", ignore_errors=True)
            ours.add(lambda: prepare_data(data))
    return {"notebook": theirs.medians(), "ours": ours.medians()}


def write_ml_1m(root: Path) -> Path:
    """The three files of MovieLens 1M: pairs, users and movies as they are where they are at hand.

    Ratings and times are made up, and everything where the data set is not there.
    """
    near = Path(os.environ.get("SHARDTOWER_DATA", ROOT.parent / "shared" / "data")) / "ml-1m"
    folder = root / "ml-1m"
    folder.mkdir()
    generator = np.random.default_rng(0)
    if (near / "interactions.parquet").exists():
        table = parquet.read_table(near / "interactions.parquet")
        users, movies = table["user_id"].to_numpy(), table["movie_id"].to_numpy()
        for file in ("users.dat", "movies.dat"):
            shutil.copyfile(near / file, folder / file)
    else:
        users, movies = np.divmod(generator.choice(6040 * 3706, 1_000_209, replace=False), 3706)
        users, movies = users + 1, movies + 1
        people = (f"{user}::F::25::{user % 21}::{10_000 + user}" for user in range(1, 6041))
        titles = (f"{movie}::Movie {movie} (1999)::Comedy|Drama" for movie in range(1, 3707))
        (folder / "users.dat").write_text("\n".join([*people, ""]))
        (folder / "movies.dat").write_text("\n".join([*titles, ""]))
    ratings = generator.integers(1, 6, len(users))
    times = generator.integers(956_703_932, 1_046_454_590, len(users))
    columns = (column.tolist() for column in (users, movies, ratings, times))
    lines = ("::".join(map(str, line)) for line in zip(*columns, strict=True))
    (folder / "ratings.dat").write_text("\n".join([*lines, ""]))
    return folder


def starts() -> dict[str, dict[str, float]]:
    """Shell and processor seconds of commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = folder / "run"
        smoke = ["--config", "configs/smoke.yaml", "--data.cache", str(folder), "--run.dir", str(trained)]
        run(trainer("train", *smoke))
        commands: dict[str, tuple[list[str], int]] = {
            "--help": (trainer("--help"), 0),
            "a misspelt key": (trainer("--run.epoch", "3"), 2),
            "a wrong value": (trainer("--run.epochs", "-3"), 2),
            "recommend --user": (trainer("recommend", trained, "--user", "1"), 0),
            "recommend --history": (trainer("recommend", trained, "--history", "1,2,3"), 0),
        }
        found = {}
        for title, (command, code) in commands.items():
            done = [run(command, code) for _ in range(REPEATS)]
            found[title] = {
                "seconds": median(each.seconds for each in done),
                "processor_seconds": median(each.processor for each in done),
            }
        return found


def show(report: dict[str, Any]) -> str:
    """All that was measured, as text."""
    lines = []
    if found := report.get("notebook"):
        for clock in ("seconds", "processor_seconds"):
            theirs, ours = (found[who][clock] for who in ("notebook", "ours"))
            lines.append(
                f"MovieLens 1M, {clock.replace('_', ' ')}: the notebook's reading and mapping {theirs:.2f}, "
                f"text to prepared form {ours:.2f}: {theirs / ours:.1f} times as fast"
            )
    for kind in ROWS:
        if kind in report:
            lines.append(f"\n{kind:<8}{'rows':>12}{'input MB':>10}{'prepared MB':>12}{'seconds':>9}")
            lines[-1] += f"{'cpu s':>8}{'rows/s':>11}{'peak MB':>9}{'again s':>9}{'opening s':>10}"
        for each in report.get(kind, ()):
            lines.append(
                f"{'':<8}{each['rows']:>12,}{each['input_bytes'] / MB:>10,.0f}"
                f"{each['prepared_bytes'] / MB:>12,.0f}{each['seconds']:>9.2f}"
                f"{each['processor_seconds']:>8.2f}{each['rows'] / each['seconds']:>11,.0f}"
                f"{each['peak_bytes'] / MB:>9,.0f}"
                f"{each['again_seconds']:>9.2f}{each['opening_seconds']:>10.4f}"
            )
    if found := report.get("start"):
        lines.append(f"\n{'from the shell':<24}{'seconds':>8}{'cpu s':>7}")
        for title, each in found.items():
            lines.append(f"  {title:<22}{each['seconds']:>8.2f}{each['processor_seconds']:>7.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to measure (default: all)")
    parser.add_argument("--rows", type=int, help="rows of the largest size of csv and parquet")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    parts, report = options.parts or PARTS, {}
    if "notebook" in parts:
        report["notebook"] = beside_the_notebook()
    for kind, most in ROWS.items():
        if kind in parts:
            largest = options.rows or most
            report[kind] = [prepared(kind, rows) for rows in (largest // 16, largest // 4, largest)]
    if "start" in parts:
        report["start"] = starts()
    print(show(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
