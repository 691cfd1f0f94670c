"""`runs`: list run folders with their data, model, figures and state."""

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.command_line.arguments import Parser
from trainer.errors import ConfigError, StorageError
from trainer.object_storage.urls import is_url, local_path

COLUMNS = ("run", "when", "data", "model", "figure", "state")

RECORDS, TRIALS, PLAN = "metrics.jsonl", "tuning/trials.json", "plan.json"
"""Files whose names are otherwise those of modules that import torch."""


@dataclass(frozen=True)
class RunSummary:
    """What the files of a run folder say of it.

    Attributes:
        run: Its folder.
        when: Time of the last change, local, ISO 8601.
        data: Name of its data, with the file of interactions where it is one's own.
        model: Loss and width, closed-form dims behind a plus sign.
        metrics: Figures of the model on the evaluated split; empty before that.
        state: `finished`, or how far it is, and whether a process is at work in it.
        step: Step of its last checkpoint, or of its last record if there is none; None before the first.
    """

    run: str
    when: str
    data: str
    model: str
    metrics: dict[str, float]
    state: str
    step: int | None


def run(arguments: list[str], heading: str = "") -> None:
    """List the run folders in a folder, the last one changed first."""
    parser = Parser(prog="python -m trainer runs", description=run.__doc__)
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="folder of run folders, or an address as s3://bucket/runs (default: runs)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    options = parser.parse_args(arguments)
    from trainer.config.resume import RUNS

    folder = options.folder or str(RUNS)
    if not is_url(folder) and not local_path(folder).is_dir():
        raise ConfigError(f"{folder}: no such folder. Name one that holds run folders, or train first")
    found = list_stored_runs(folder) if is_url(folder) else list_runs(local_path(folder))
    if options.json:
        print(json.dumps([asdict(summary) for summary in found], indent=2))
    else:
        print(as_text(found) if found else f"{folder}: no run folders")


def list_runs(folder: Path) -> list[RunSummary]:
    """Return the runs in a folder, or the folder itself if it is one; the last one changed first."""
    from trainer.runs.checkpoint_store import CONFIG

    folders = (
        [folder]
        if (folder / CONFIG).is_file()
        else sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    )
    found = [summarise(path) for path in folders]
    return sorted(found, key=lambda summary: summary.when, reverse=True)


def list_stored_runs(url: str) -> list[RunSummary]:
    """Return the runs that were published at an address or directly below it, from their small files."""
    from trainer.object_storage.copies import published_below, published_copy, published_time
    from trainer.object_storage.lease import is_held
    from trainer.runs.checkpoint_store import CONFIG, METRICS, STATE

    small = (CONFIG, METRICS, RECORDS, TRIALS, PLAN)
    found = []
    for each in published_below(url):
        try:
            copy = published_copy(each, lambda name: name in small or name.endswith(f"/{STATE}"))
        except StorageError as error:  # one damaged run should not hide the others
            print(error, file=sys.stderr)
            continue
        if (copy / CONFIG).is_file():
            summary = summarise(copy, each, is_held(each))
            found.append(replace(summary, when=_shown_time(published_time(each))))
    return sorted(found, key=lambda summary: summary.when, reverse=True)


def summarise(run: Path, name: str | None = None, at_work: bool | None = None) -> RunSummary:
    """Return what the files of a run folder say; what cannot be read is left open.

    Args:
        run: Run folder.
        name: What it is called; by default its path.
        at_work: Whether a training is at work in it; by default what its lock says.
    """
    import yaml

    from trainer.runs.checkpoint_store import CONFIG, METRICS, last_saved_step

    config: dict[str, Any] = {}
    with suppress(OSError, ValueError, yaml.YAMLError):
        config = yaml.load((run / CONFIG).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    metrics, saved, recorded = _read(run / METRICS), last_saved_step(run), _last_record(run)
    return RunSummary(
        run=name or str(run),
        when=_changed(run, (CONFIG, METRICS, RECORDS, TRIALS)),
        data=_data(config.get("data", {})),
        model=_model(config),
        metrics=metrics.get("model", {}),
        state=_state(run, bool(metrics), saved, recorded, at_work),
        step=metrics.get("step", recorded if saved is None else saved),
    )


def _state(
    run: Path, finished: bool, saved: int | None, recorded: int | None, at_work: bool | None = None
) -> str:
    if finished:
        return "finished"
    at_work = _is_locked(run) if at_work is None else at_work
    if not (run / PLAN).is_file() or (run / TRIALS).is_file():  # when everything is chosen it is the reverse
        trials = len(_read(run / TRIALS).get("figures", {}))
        state = f"choosing, {trials} trial{'' if trials == 1 else 's'} finished"
        return state if at_work else f"interrupted while {state}"
    if at_work:
        return f"training, step {recorded or 0:,}"
    if saved is not None:
        return f"interrupted at step {recorded or saved:,}, goes on after step {saved:,}"
    return f"interrupted at step {recorded or 0:,}, nothing saved"


def _is_locked(run: Path) -> bool:
    """Return whether a process is at work in a run folder."""
    from filelock import FileLock, Timeout

    if not (run / ".lock").exists():
        return False
    try:
        with FileLock(run / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # not ours to lock
        return False


def _data(data: dict[str, Any]) -> str:
    name, file = str(data.get("name", "?")), data.get("interactions")
    return f"{name} {Path(file).name}" if file else name


def _model(config: dict[str, Any]) -> str:
    model, loss = config.get("model", {}), config.get("loss", {})
    closed = f"+{model['low_rank']}" if model.get("low_rank") else ""
    width = f" {model['dim']}{closed}" if model.get("dim") else ""
    return f"{loss.get('name', '?')}{width}"


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _last_record(run: Path) -> int | None:
    """Return the step of the last line of a run's records that was not cut off."""
    with suppress(OSError):
        for line in reversed((run / RECORDS).read_text().splitlines()):
            with suppress(ValueError, KeyError):
                return json.loads(line)["step"]
    return None


def _changed(run: Path, names: tuple[str, ...]) -> str:
    times = [(run / name).stat().st_mtime for name in names if (run / name).exists()]
    return _shown_time(max(times))


def _shown_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def as_text(found: list[RunSummary]) -> str:
    """Return a table with a row for each run."""
    rows = [COLUMNS]
    for each in found:
        metric = "ndcg@10" if "ndcg@10" in each.metrics else next(iter(each.metrics), "")
        figure = f"{metric} {each.metrics[metric]:.4f}" if metric else "-"
        rows.append((each.run, each.when, each.data, each.model, figure, each.state))
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
