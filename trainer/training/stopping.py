"""When a training stops and which weights it keeps: its validation figures, and the seconds until each."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


class Stopwatch:
    """Seconds of training; it stands still in the pauses between.

    Attributes:
        pauses: seconds of all pauses that are over.
    """

    def __init__(self, already: float = 0.0) -> None:
        """Start.

        Args: already: seconds of the same training in an earlier process.
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
        """Time that does not count."""
        self._stopped = time.perf_counter()
        yield
        self.pauses += time.perf_counter() - self._stopped
        self._stopped = None


@dataclass(frozen=True)
class Validation:
    """One measurement of the validation part.

    Attributes:
        step: steps trained until then.
        seconds: seconds trained until then, evaluations left out.
        figure: the metric that decides; larger is better.
    """

    step: int
    seconds: float
    figure: float


@dataclass(frozen=True)
class Progressed:
    """How far a training has come, as its checkpoints tell.

    Attributes:
        seconds: of training.
        validations: in the order of steps.
    """

    seconds: float = 0.0
    validations: list[Validation] = field(default_factory=list)

    def figure(self, step: int) -> float | None:
        """The validation figure after `step` steps; None where nothing was measured then."""
        return next((each.figure for each in self.validations if each.step == step), None)


@dataclass
class Course:
    """How the validation figure of one training went.

    Attributes:
        metric: its name.
        patience: validations in a row without a new best after which the training stops; 0: it never does.
        steps: of the whole training.
        epoch_steps: steps of an epoch.
        validations: in the order of steps.
        paused_at: step after which a signal ended the training before its time; None: none did.
        kept: step whose weights the run has in the end; None: the training has not ended.
    """

    metric: str
    patience: int
    steps: int
    epoch_steps: int
    validations: list[Validation] = field(default_factory=list)
    paused_at: int | None = None
    kept: int | None = None

    def add(self, step: int, seconds: float, figure: float) -> None:
        """Keep a figure."""
        self.validations.append(Validation(step, seconds, figure))

    def is_among_best(self, step: int, count: int) -> bool:
        """Whether the validation after `step` steps is one of the best so far; of equal ones the earlier."""
        found = Progressed(0, self.validations).figure(step)
        return found is not None and sum(each.figure >= found for each in self.validations) <= count

    @property
    def best(self) -> Validation:
        """The best validation, of equal ones the first."""
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
        """Whether patience was to keep the best weights, but they could not be written."""
        return self.patience > 0 and self.kept not in (None, self.best.step)

    def epoch(self, step: int) -> float:
        """Epochs in `step` steps."""
        return step / self.epoch_steps

    def seconds_to(self, share: float) -> float:
        """Seconds trained until the figure first reached this share of its best."""
        return next(each.seconds for each in self.validations if each.figure >= share * self.best.figure)

    def report(self) -> dict[str, Any]:
        """The course in short, as `metrics.json` gives it; empty where nothing was validated."""
        if not self.validations:
            return {}
        best, last = self.best, self.validations[-1]
        short = {
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
        return {"validation": short}
