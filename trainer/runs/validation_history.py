"""The validation figures of a training: which was best, when to stop, and the seconds until each."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


class Stopwatch:
    """Seconds of training, without the pauses in between.

    Attributes:
        pauses: Seconds of all pauses that are over.
    """

    def __init__(self, already: float = 0.0) -> None:
        """Start counting.

        Args:
            already: Seconds of the same training in an earlier process.
        """
        self._started = time.perf_counter() - already
        self._stopped: float | None = None
        self.pauses = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start, without the pauses."""
        now = time.perf_counter() if self._stopped is None else self._stopped
        return now - self._started - self.pauses

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of a block out."""
        self._stopped = time.perf_counter()
        yield
        self.pauses += time.perf_counter() - self._stopped
        self._stopped = None


@dataclass(frozen=True)
class Validation:
    """One evaluation on the validation split.

    Attributes:
        step: Steps trained before it.
        seconds: Seconds trained before it, without evaluations.
        figure: Value of the deciding metric; larger is better.
    """

    step: int
    seconds: float
    figure: float


@dataclass(frozen=True)
class SavedProgress:
    """How far a training has come, as its checkpoints record it.

    Attributes:
        seconds: Seconds of training.
        validations: Evaluations on the validation split, in the order of steps.
        origin_steps: Optimizer steps that were taken over from an earlier run.
    """

    seconds: float = 0.0
    validations: list[Validation] = field(default_factory=list)
    origin_steps: int = 0

    def figure(self, step: int) -> float | None:
        """Return the validation figure after `step` steps; None if there was no evaluation then."""
        return next((each.figure for each in self.validations if each.step == step), None)


@dataclass
class ValidationHistory:
    """The validation figures of one training.

    Attributes:
        metric: Name of the deciding metric.
        patience: Evaluations in a row without a new best after which the training stops; 0: it never does.
        steps: Steps of the whole training.
        epoch_steps: Steps of an epoch.
        validations: Evaluations on the validation split, in the order of steps.
        paused_at: Step after which a signal ended the training early; None: none did.
        origin_steps: Optimizer steps that were taken over from an earlier run.
        kept: Step of the weights that the finished run keeps; None before it is finished.
    """

    metric: str
    patience: int
    steps: int
    epoch_steps: int
    validations: list[Validation] = field(default_factory=list)
    paused_at: int | None = None
    origin_steps: int = 0
    kept: int | None = None

    def add(self, step: int, seconds: float, figure: float) -> None:
        """Record a figure."""
        self.validations.append(Validation(step, seconds, figure))

    def progress(self, seconds: float) -> SavedProgress:
        """Return what a checkpoint records of this history after so many seconds of training."""
        return SavedProgress(seconds, [*self.validations], self.origin_steps)

    def is_among_best(self, step: int, count: int) -> bool:
        """Return whether the figure after `step` steps is one of the best `count`; earlier ones win ties."""
        found = SavedProgress(0, self.validations).figure(step)
        return found is not None and sum(each.figure >= found for each in self.validations) <= count

    @property
    def best(self) -> Validation:
        """The best validation; the first of equal ones."""
        return max(self.validations, key=lambda each: each.figure)

    @property
    def patience_is_over(self) -> bool:
        """Whether the last `patience` validations brought no new best."""
        if not self.patience or not self.validations:
            return False
        return len(self.validations) - 1 - self.validations.index(self.best) >= self.patience

    @property
    def stopped_early(self) -> bool:
        """Whether patience was over before the last step."""
        return self.patience_is_over and self.validations[-1].step < self.steps

    @property
    def best_is_lost(self) -> bool:
        """Whether patience was to keep the best weights, and they could not be written."""
        return self.patience > 0 and self.kept not in (None, self.best.step)

    def epoch(self, step: int) -> float:
        """Return `step` steps in epochs."""
        return step / self.epoch_steps

    def seconds_to(self, share: float) -> float:
        """Return the seconds trained until the figure first reached this share of its best."""
        return next(each.seconds for each in self.validations if each.figure >= share * self.best.figure)

    def report(self) -> dict[str, Any]:
        """Return a summary for `metrics.json`; empty without validations."""
        if not self.validations:
            return {}
        best, last = self.best, self.validations[-1]
        summary = {
            "metric": self.metric,
            "best": best.figure,
            "best_step": best.step,
            "best_epoch": self.epoch(best.step),
            "last_step": last.step,
            "last_epoch": self.epoch(last.step),
            "stopped_early": self.stopped_early,
            "kept_step": self.kept,
            "kept_epoch": None if self.kept is None else self.epoch(self.kept),
            "best_could_not_be_written": self.best_is_lost,
        }
        return {"validation": summary}
