"""Runs the parts of the GPU check, each in a process and with a limit of its own, and reports on them."""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 10
"""With less time left, no part is begun."""


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        shows: What it shows, for the table.
        seconds: After which it is ended.
        timed: Whether nothing else may run beside it, because it measures time.
        gpus: GPUs that it needs; 0: it has a CPU form.
    """

    shows: str
    seconds: int
    timed: bool = False
    gpus: int = 0


PARTS: Mapping[str, Part] = {
    "environment": Part("versions, driver, card", 60, timed=True),
    "speed": Part("examples/s beside bare FBGEMM; memory and time beside the plan's", 120, timed=True),
    "softmax": Part("a softmax step beside its three products", 60, timed=True),
    "evaluation": Part("ranked users/s beside one product with top-k", 60, timed=True),
    "anatomy": Part("what a small step spends its time on", 60, timed=True),
    "optimizers": Part("every optimizer and kernel against float64", 90),
    "quality": Part("NDCG@10 of two data sets beside the CPU's", 200),
    "resume": Part("trainings cut and resumed, across devices too", 120),
    "options": Part("losses under each option beside the plain ones", 150),
    "tests": Part("the tests that need CUDA", 240),
    "two_gpus": Part("two ranks lose what one does", 120, gpus=2),
}


@dataclass
class Outcome:
    """What came of a part.

    Attributes:
        state: `passed`, `failed` or `skipped`.
        seconds: That it took.
        lines: What it reported, in words.
        figures: What it measured, by name.
    """

    state: str
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)


def run(name: str, device: str, folder: Path, seconds: float, threads: int) -> Outcome:
    """Run a part in a process of its own, with so many threads."""
    log, report = folder / f"{name}.log", folder / f"{name}.jsonl"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.gpu.parts", name, device, str(folder)]
    # Threads of parts side by side would wait for each other's cores.
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    started = time.monotonic()
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=seconds
            )
            ending = "" if done.returncode == 0 else f"ended with code {done.returncode}, see {log}"
        except subprocess.TimeoutExpired:
            ending = f"ended after {seconds:.0f} s, see {log}"
    outcome = Outcome("passed", time.monotonic() - started)
    for line in report.read_text().splitlines() if report.exists() else ():
        entry = json.loads(line)
        outcome.lines.append(("" if entry["ok"] else "FAILED  ") + entry["text"])
        outcome.figures |= entry["figures"]
        if not entry["ok"]:
            outcome.state = "failed"
    if ending:
        outcome.state = "failed"
        outcome.lines.append(ending)
    return outcome


def gpu_count() -> int:
    """Return how many GPUs torch sees; another process asks, so that this one takes no memory of theirs."""
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout or 0)


def write_junit(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Write the outcomes as JUnit's XML."""
    suite = ElementTree.Element("testsuite", name="gpu check", tests=str(len(outcomes)))
    for name, outcome in outcomes.items():
        case = ElementTree.SubElement(suite, "testcase", name=name, time=f"{outcome.seconds:.1f}")
        if outcome.state == "failed":
            ElementTree.SubElement(case, "failure").text = "\n".join(outcome.lines)
        if outcome.state == "skipped":
            ElementTree.SubElement(case, "skipped")
        ElementTree.SubElement(case, "system-out").text = "\n".join(outcome.lines)
    suite.set("failures", str(sum(outcome.state == "failed" for outcome in outcomes.values())))
    ElementTree.ElementTree(suite).write(path, encoding="unicode")


def check(
    names: Sequence[str], device: str, gpus: int, folder: Path, limit: float, jobs: int
) -> list[Outcome]:
    """Run the parts, those that measure time one by one and then the others; print and write each at once."""
    outcomes: dict[str, Outcome] = {}
    began, lock, cores = time.monotonic(), threading.Lock(), os.cpu_count() or 1

    def one(name: str) -> None:
        part, left = PARTS[name], limit - (time.monotonic() - began)
        if part.gpus > gpus:
            outcome = Outcome("skipped", lines=[f"needs {part.gpus} GPUs, and there are {gpus}"])
        elif left < LEAST_SECONDS:
            outcome = Outcome("skipped", lines=["no time is left, see --limit"])
        else:
            threads = cores if part.timed else max(1, cores // jobs)
            outcome = run(name, device, folder, min(part.seconds, left), threads)
        with lock:
            outcomes[name] = outcome
            print(f"{name:<12} {outcome.state:<8} {outcome.seconds:6.1f} s  {part.shows}", flush=True)
            for line in outcome.lines:
                print(f"    {line}", flush=True)
            results = {"device": device, "parts": {key: asdict(value) for key, value in outcomes.items()}}
            (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
            write_junit(folder / "junit.xml", outcomes)

    for name in names:
        if PARTS[name].timed:
            one(name)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, [name for name in names if not PARTS[name].timed]))
    return [*outcomes.values()]


def main() -> int:
    """Run the parts that are asked for; return 0 where none failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU, as without a GPU")
    parser.add_argument("--only", help="parts out of " + ", ".join(PARTS))
    parser.add_argument("--skip", default="", help="parts to leave out")
    parser.add_argument(
        "--out", type=Path, default=Path("/tmp/shardtower-gpu-check"), help="folder of results"
    )
    parser.add_argument("--limit", type=float, default=480.0, help="seconds for all parts (default: 480)")
    parser.add_argument(
        "--jobs",
        type=int,
        default=max(1, (os.cpu_count() or 1) // 4),
        help="parts at a time, of those not timed",
    )
    options = parser.parse_args()
    asked = options.only.split(",") if options.only else list(PARTS)
    skipped = [name for name in options.skip.split(",") if name]
    if unknown := [name for name in (*asked, *skipped) if name not in PARTS]:
        parser.error(f"{unknown[0]}: no such part; there are {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    gpus = 0 if options.cpu else gpu_count()
    names = [name for name in asked if name not in skipped]
    device = "cuda" if gpus else "cpu"
    outcomes = check(names, device, gpus, options.out, options.limit, options.jobs)
    states = [outcome.state for outcome in outcomes]
    print(", ".join(f"{states.count(state)} {state}" for state in ("passed", "failed", "skipped")))
    print(f"Results: {options.out / 'results.json'}, {options.out / 'junit.xml'}")
    return int("failed" in states)


if __name__ == "__main__":
    sys.exit(main())
