"""What a training leaves for its report: where its settings came from, its trials, memory of each rank."""

import json
import resource
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer.atomic_write import write_text
from trainer.distributed.world import World

SETTINGS, RANKS = "settings.json", "ranks.json"


@dataclass(frozen=True)
class Settings:
    """Where the settings of a run came from; all others are defaults.

    Attributes:
        given: Values by dotted name that were asked for.
        by_size: Those that the size of the data decided.
        by_trial: Those that trials on validation splits decided.
        fixed: Those that could have been tried, and were set without trials.
        chosen: The trials, as `metrics.json` holds them; empty without any.
    """

    given: dict[str, Any] = field(default_factory=dict)
    by_size: dict[str, Any] = field(default_factory=dict)
    by_trial: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)


def write_settings(run: Path, settings: Settings) -> None:
    """Write them into the run folder, where they outlast a training that is resumed."""
    write_text(run / SETTINGS, json.dumps(asdict(settings), indent=1) + "\n")


def read_settings(run: Path) -> Settings | None:
    """Return them; None in run folders of older versions, or where the file is damaged."""
    with suppress(OSError, ValueError, TypeError):
        return Settings(**json.loads((run / SETTINGS).read_text()))
    return None


def trials_report(run: Path) -> dict[str, Any]:
    """Return the trials as `metrics.json` has them, also those of a process that the training outlived."""
    settings = read_settings(run)
    return {"chosen": settings.chosen} if settings and settings.chosen else {}


def measure_ranks(world: World) -> list[dict[str, float]] | None:
    """Return the largest memory of each rank so far, in bytes, on rank 0; None elsewhere.

    `memory` is that of the process, `device_memory` what PyTorch had allocated on a GPU.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    own = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, 0]
    if world.device.type == "cuda":
        own[1] = torch.cuda.max_memory_allocated(world.device)
    rows = world.gather_to_first(torch.tensor([own], device=world.device), [1] * world.size)
    if rows is None:
        return None
    names = ("memory", "device_memory") if world.device.type == "cuda" else ("memory",)
    return [{"rank": rank, **dict(zip(names, row, strict=False))} for rank, row in enumerate(rows.tolist())]


def write_ranks(run: Path, ranks: list[dict[str, float]]) -> None:
    """Write what each rank took into the run folder."""
    write_text(run / RANKS, json.dumps(ranks, indent=1) + "\n")


def read_ranks(run: Path) -> list[dict[str, float]]:
    """Return what each rank took; empty in run folders of older versions, or where the file is damaged."""
    with suppress(OSError, ValueError):
        found = json.loads((run / RANKS).read_text())
        return found if isinstance(found, list) else []
    return []
