"""The lists of all users: users a second, memory, and rows that a kill in between does not change.

    python -m tests.benchmarks.lists RUN [-k 100]        a run's own users, written whole, then killed once
    python -m tests.benchmarks.lists --made-up           10^6 users and 10^5 items of random vectors

A list of each user is written by the command in a process of its own. The second time it is killed by SIGKILL
when half of the parts are there, and started again; the rows must be those of the first time. `--made-up`
trains an epoch on made-up interactions, 10 a user, and puts random vectors of 64 dims into the run's cache.
The lists of a share of the users are written, `--share 0.05`, as all parts cost the same. `imports` is what a
process holds that has imported the command and done nothing.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from trainer.batch_lists.lists_folder import MANIFEST
from trainer.cli import main as command
from trainer.formatting import format_bytes
from trainer.runs.checkpoint_store import newest
from trainer.serving.vector_cache import Vectors, save_vectors

DIMS, PER_USER = 64, 10


def main() -> None:
    """Write lists, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="run folder")
    parser.add_argument("--made-up", action="store_true", help="10^6 users and 10^5 items of random vectors")
    parser.add_argument("--users", type=int, default=1_000_000, help="of --made-up")
    parser.add_argument("--items", type=int, default=100_000, help="of --made-up")
    parser.add_argument(
        "--share", type=float, default=0.05, help="share of the made-up users that is written"
    )
    parser.add_argument("-k", type=int, default=100, help="items of a list")
    parser.add_argument("--users-per-part", type=int, default=512, help="users of a file")
    parser.add_argument("options", nargs="*", help="more options of the command, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-k", str(options.k), "--users-per-part", str(options.users_per_part), *options.options]
        if options.made_up:
            # In a process of its own: a child's peak begins with what its parent holds.
            sizes = Path(folder), options.users, options.items
            maker = multiprocessing.get_context("spawn").Process(target=made_up, args=sizes)
            maker.start()
            maker.join()
            if maker.exitcode:
                sys.exit("the training failed")
            run = Path(folder) / "run"
            users = Path(folder) / "users.txt"
            # Raw ids; rows are numbered by first appearance.
            count = int(options.users * options.share)
            users.write_text("\n".join(map(str, range(1, count + 1))))
            report(Path(folder), run, [*arguments, "--users", str(users)], options.users)
        elif options.run:
            report(Path(folder), options.run, [*arguments, "--all"], None)
        else:
            parser.error("name a run, or use --made-up")


def report(folder: Path, run: Path, arguments: list[str], users: int | None) -> None:
    """Print users a second and memory of writing lists whole, and compare them with those after a kill."""
    _, _, imported = measured([sys.executable, "-c", "import trainer.batch_lists.all_lists"])
    whole, seconds, peak = written(run, folder / "whole", arguments)
    count = int(whole.split(" lists of ")[1].split(" ")[0].replace(",", "")) if " lists of " in whole else 0
    found = {"printed": whole, "process_seconds": round(seconds, 1), "peak_memory": format_bytes(peak)}
    found["imports"] = format_bytes(imported)
    if users is not None and count:
        made = float(whole.rpartition("(")[2].split(" s")[0])
        found["extrapolated_to_all_users_seconds"] = round(made / count * users)
    found["killed_at_parts"] = killed(run, folder / "killed", arguments, len(parts(folder / "whole")))
    found["restarted"] = written(run, folder / "killed", arguments)[0]
    pairs = zip(parts(folder / "whole"), parts(folder / "killed"), strict=True)
    found["equal_rows"] = all(pq.read_table(one).equals(pq.read_table(other)) for one, other in pairs)
    size = sum(path.stat().st_size for path in parts(folder / "whole"))
    found |= {"files": len(parts(folder / "whole")), "bytes": format_bytes(size)}
    print(json.dumps(found, indent=1))


def written(run: Path, out: Path, arguments: list[str]) -> tuple[str, float, int]:
    """Return what the command printed, its seconds, and the most bytes that were resident."""
    return measured(launch(run, out, arguments))


def measured(line: list[str]) -> tuple[str, float, int]:
    """Return what a command line printed, its seconds, and the most bytes that were resident."""
    begun = time.monotonic()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{line} ended with {process.returncode}")
    return printed, time.monotonic() - begun, usage.ru_maxrss * 1024


def killed(run: Path, out: Path, arguments: list[str], of: int) -> int:
    """Start the command, kill it when half of the parts are there, and return how many there were."""
    process = subprocess.Popen(
        launch(run, out, arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while len(parts(out)) < of // 2 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not json.loads((out / MANIFEST).read_text())["complete"], "it was faster than the kill"
    return len(parts(out))


def launch(run: Path, out: Path, arguments: list[str]) -> list[str]:
    """Return the command line that writes lists."""
    return [sys.executable, "-m", "trainer", "recommend", str(run), "--out", str(out), *arguments]


def parts(out: Path) -> list[Path]:
    """Return the files of lists."""
    return sorted(out.glob("part-*.parquet"))


def made_up(folder: Path, users: int, items: int) -> None:
    """Write `folder`/run, a run of these sizes whose cached vectors are random."""
    run = folder / "run"
    data = {
        "name": "synthetic",
        "cache": folder / "cache",
        "synthetic_users": users,
        "synthetic_items": items,
        "synthetic_interactions": users * PER_USER,
    }
    options = [word for name, value in data.items() for word in (f"--data.{name}", str(value))]
    options += ["--model.dim", "4", "--model.low_rank", "0", "--run.choose", "false", "--run.epochs", "1"]
    # Small steps of few candidates: a step's scores have users x candidates entries.
    options += ["--batches.size", "1024", "--loss.candidates", "sampled", "--loss.samples", "256"]
    options += ["--data.split", "none", "--run.tensorboard", "false", "--device", "cpu"]
    if command(["train", *options, "--run.dir", str(run)]):
        sys.exit(1)
    from trainer.dataset.vocabulary import open_vocabulary

    vocabulary, generator = open_vocabulary(run), np.random.default_rng(42)
    shapes = ((len(vocabulary.user_ids), DIMS), (len(vocabulary.item_ids), DIMS))
    queries, vectors = (generator.standard_normal(shape, np.float32) for shape in shapes)
    save_vectors(run, newest(run), Vectors(queries, vectors, vectors[:, :0]))
    shutil.rmtree(folder / "cache")


if __name__ == "__main__":
    main()
