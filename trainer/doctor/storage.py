"""Room on disks and in shared memory, and whether it may be written to."""

import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from trainer.doctor.findings import Facts, Verdict
from trainer.formatting import format_bytes

SHARED_MEMORY = Path("/dev/shm")
BUFFERS = 2**28
"""Most shared memory that ranks exchange through, see `trainer.distributed.shared_memory`."""
LITTLE, SCARCE = 10**8, 2 * 10**9
"""Free bytes of a disk below which nothing can be written, and below which a run may not fit."""


class Place(NamedTuple):
    """A folder that is written to.

    Attributes:
        folder: The folder, which need not be there yet.
        purpose: What is written there.
        option: How to name another one.
        command: A command that does, where one is needed; `{}` stands for the folder.
    """

    folder: Path
    purpose: str
    option: str
    command: str = ""


def cache_folder() -> Path:
    """Return the folder of prepared data sets, as `--data.cache` has it by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardtower"


def runs() -> Place:
    """Return the folder of runs."""
    return Place(Path("runs"), "runs", "name another folder with --run.dir")


def cache() -> Place:
    """Return the folder of prepared data sets."""
    return Place(cache_folder(), "prepared data", "name another folder with --data.cache")


def temporary() -> Place:
    """Return the folder of temporary files."""
    place = Path(tempfile.gettempdir())
    return Place(place, "temporary files", "name another folder in TMPDIR", "export TMPDIR=/folder/with/room")


def look_disk(place: Place) -> Facts:
    """Return the room in a folder, or in the nearest one above it that is there."""
    absolute = place.folder.absolute()
    nearest = next(each for each in (absolute, *absolute.parents) if each.exists())
    usage, status = shutil.disk_usage(nearest), os.statvfs(nearest)
    return {
        "folder": str(place.folder),
        "purpose": place.purpose,
        "option": place.option,
        "nearest": str(nearest),
        "total": usage.total,
        "free": usage.free,
        "free_files": status.f_favail if status.f_files else None,
        "writable": nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK),
    }


def judge_disk(facts: Facts) -> Verdict:
    """Judge the room in a folder."""
    free, folder, option = facts["free"], facts["folder"], facts["option"]
    text = f"{folder} ({facts['purpose']}): {format_bytes(free)} free of {format_bytes(facts['total'])}"
    if not facts["writable"]:
        words = f"{folder} ({facts['purpose']}): {facts['nearest']} may not be written to"
        return Verdict("error", words, f"Allow it, or {option}")
    look = (f"df -h {shlex.quote(facts['nearest'])}",)
    if facts["free_files"] == 0:
        return Verdict("error", f"{text}, but no file more may be made", f"Delete files, or {option}", look)
    if free < LITTLE:
        return Verdict("error", text, f"Make room there, or {option}", look)
    if free < SCARCE:
        return Verdict("warning", f"{text}: a run may not fit", f"Make room there, or {option}", look)
    return Verdict("ok", text)


def look_shared_memory(folder: Path = SHARED_MEMORY) -> Facts:
    """Return size and room of the memory that processes share."""
    if not folder.is_dir():
        return {"folder": str(folder), "total": None, "free": None, "writable": False}
    usage = shutil.disk_usage(folder)
    writable = os.access(folder, os.W_OK | os.X_OK)
    return {"folder": str(folder), "total": usage.total, "free": usage.free, "writable": writable}


def judge_shared_memory(facts: Facts) -> Verdict:
    """Judge whether the ranks of a host can exchange through memory."""
    folder, total, free = facts["folder"], facts["total"], facts["free"]
    remedy = (
        "Give a container more: docker run --shm-size=1g, in Kubernetes a volume with "
        "`emptyDir: {medium: Memory}`"
    )
    slow = "ranks of this host exchange through gloo, which is slower, and NCCL may fail"
    if total is None or not facts["writable"]:
        return Verdict("warning", f"{folder} is missing or may not be written to: {slow}", remedy)
    text = f"{folder}: {format_bytes(free)} free of {format_bytes(total)}"
    if free < BUFFERS:
        grow = f"{'' if os.geteuid() == 0 else 'sudo '}mount -o remount,size=1g {folder}"
        words = f"{text}. Where buffers do not fit (up to {format_bytes(BUFFERS)}), {slow}"
        return Verdict(
            "warning", words, f"{remedy}. On a machine of one's own", (grow,) if total < BUFFERS else ()
        )
    return Verdict("ok", text)
