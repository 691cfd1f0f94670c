"""Trials of a tuning: which value is tried next, and those that are finished.

Finished ones are kept in the run folder, so that an interrupted tuning is resumed.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from trainer.atomic_write import replaced, write_text
from trainer.distributed.world import World
from trainer.formatting import format_count
from trainer.reporting.progress import Progress

FOLDER, FIGURES = "tuning", "trials.json"
"""Folder of the trials in a run folder, and the file in it that names those that are finished."""
MOST_TRIALS = 6
"""Most values of one setting that are tried."""
Vectors = tuple[torch.Tensor, torch.Tensor]
"""Query vectors of the evaluated users and candidate vectors of the catalogue, for one validation split."""


class Trials:
    """Figures of finished trials by name, and vectors of those that are still needed.

    A trial is written down as soon as it is finished: first its vectors, then its figure. Figures are floats
    that JSON keeps to the last digit, so that a resumed tuning chooses what an uninterrupted one chooses.
    """

    def __init__(self, run: Path | None, identity: str, metric: str, most: int, world: World) -> None:
        """Open the trials of a run folder; called by every rank alike.

        Args:
            run: Run folder; None: trials are kept in memory alone.
            identity: What the figures depend on; trials of another identity are dropped.
            metric: Name of the figure, as it is shown.
            most: Most trials that there can be, as it is shown.
            world: All ranks.
        """
        self._folder = run / FOLDER if run else None
        self._identity, self._metric, self._most, self._world = identity, metric, most, world
        self._number = 0
        self._vectors: dict[str, Vectors | None] = {}
        self.figures: dict[str, float] = world.on_first(self._finished)
        if self.figures and world.is_first:
            print(f"Choosing goes on after {format_count(len(self.figures), 'finished trial')}.", flush=True)

    def figure(self, name: str, measure: Callable[[], float]) -> float:
        """Return the figure of a trial; one that is not finished is run and written down.

        Args:
            name: Of the trial, with all digits of its value: `temperature 0.2`.
            measure: Runs the trial and returns its figure; called by every rank that calls this.
        """
        self._number += 1
        if name not in self.figures:
            self.figures[name] = measure()
            self._write()
            self._say(f"{_rounded(name)}, {self._metric} {self.figures[name]:.4f}")
        return self.figures[name]

    def vectors(self, name: str, make: Callable[[], Vectors | None]) -> Vectors | None:
        """Return the vectors of a trial on rank 0, held or else made anew; called by every rank alike."""
        if not self._world.on_first(lambda: name in self._vectors or self._is_on_disk(name)):
            self.hold(name, make())
        if name not in self._vectors and self._world.is_first:
            query, items = (torch.from_numpy(np.load(path, allow_pickle=False)) for path in self._paths(name))
            self._vectors[name] = query, items
        return self._vectors.get(name)

    def further(self, name: str, make: Callable[[], Vectors | None]) -> Vectors | None:
        """Return the vectors of a trial that has no figure of its own, see `vectors`."""
        self._number += 1

        def made() -> Vectors | None:
            vectors = make()
            self._say(_rounded(name))
            return vectors

        return self.vectors(name, made)

    def bar(self, steps: int) -> Progress:
        """Return the progress bar of the trial that runs."""
        return Progress(
            None, steps, self._world.is_first, tensorboard=False, label=f"choosing, {self._place}"
        )

    def hold(self, name: str, vectors: Vectors | None) -> None:
        """Keep the vectors of a trial, which are there on rank 0, until they are released."""
        self._vectors[name] = vectors
        if self._folder and vectors:
            self._folder.mkdir(exist_ok=True)
            for path, values in zip(self._paths(name), vectors, strict=True):
                with replaced(path) as beside, beside.open("wb") as file:
                    np.save(file, values.numpy(), allow_pickle=False)

    def release(self, name: str) -> None:
        """Drop the vectors of a trial that are needed no more."""
        self._vectors.pop(name, None)
        if self._folder and self._world.is_first:
            for path in self._paths(name):
                path.unlink(missing_ok=True)

    @property
    def _place(self) -> str:
        return f"trial {self._number} of at most {self._most}"

    def _say(self, outcome: str) -> None:
        """Print a line for a trial where no bar stands for it."""
        if self._world.is_first and not sys.stderr.isatty():
            print(f"Choosing, {self._place}: {outcome}", flush=True)

    def _paths(self, name: str) -> list[Path]:
        assert self._folder is not None
        return [self._folder / f"{name.replace(' ', '-')}-{side}.npy" for side in ("query", "items")]

    def _is_on_disk(self, name: str) -> bool:
        return self._folder is not None and all(path.is_file() for path in self._paths(name))

    def _finished(self) -> dict[str, float]:
        if self._folder and self._folder.exists():
            with suppress(OSError, ValueError, KeyError, TypeError):
                found = json.loads((self._folder / FIGURES).read_text())
                if found["identity"] == self._identity:
                    return {str(name): float(figure) for name, figure in found["figures"].items()}
            forget_trials(self._folder.parent)
        return {}

    def _write(self) -> None:
        if self._folder and self._world.is_first:
            self._folder.mkdir(exist_ok=True)
            found = {"identity": self._identity, "figures": self.figures}
            write_text(self._folder / FIGURES, json.dumps(found, indent=1) + "\n")


def forget_trials(run: Path) -> None:
    """Remove the trials of a run, whose settings are chosen."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def _rounded(name: str) -> str:
    """Return a trial's name with numbers to three digits: `temperature 0.283`."""
    return re.sub(r"\d+\.[\de+-]+", lambda number: f"{float(number[0]):.3g}", name)


def climb(score: Callable[[float], float], start: float, ratio: float) -> dict[float, float]:
    """Score `start` times powers of `ratio` until both neighbours of the best are worse.

    The next value is above or below the best one so far. At most `MOST_TRIALS` values are scored.
    """
    scores = {0: score(start)}
    while len(scores) < MOST_TRIALS:
        best = max(scores, key=lambda power: scores[power])
        open_sides = [power for power in (best - 1, best + 1) if power not in scores]
        if not open_sides:
            break
        scores[open_sides[0]] = score(start * ratio ** open_sides[0])
    return {start * ratio**power: scores[power] for power in sorted(scores)}


def best_of(scores: dict[float, float]) -> float:
    """Return the value with the highest score."""
    return max(scores, key=lambda value: scores[value])


def peak(scores: dict[float, float]) -> float:
    """Return the vertex of the parabola through the best value and its neighbours, in logarithms.

    Args:
        scores: Scores of values that form a geometric sequence.

    Returns:
        The vertex to 3 decimals; the best value itself if it has one neighbour alone.
    """
    values = sorted(scores)
    place = values.index(best_of(scores))
    if not 0 < place < len(values) - 1:
        return round(values[place], 3)
    below, best, above = (scores[values[place + shift]] for shift in (-1, 0, 1))
    bend = below - 2 * best + above
    shift = 0.0 if bend >= 0 else (below - above) / (2 * bend)
    return round(values[place] * (values[place + 1] / values[place]) ** shift, 3)
