"""What a training says while it runs: a bar or lines, metrics.jsonl, and TensorBoard events."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil
from tqdm import tqdm


class Progress:
    """Records of one run, written by rank 0; silent on other ranks."""

    def __init__(self, run: Path | None, steps: int, active: bool, tensorboard: bool, start: int = 0) -> None:
        """Open the run's records.

        Args:
            run: run folder; None: nothing is recorded.
            steps: of the whole training.
            active: whether this rank records.
            tensorboard: write TensorBoard events as well.
            start: steps that are done already.
        """
        self.active = active
        self.file = (run / "metrics.jsonl").open("a") if active and run else None
        self.bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            disable=not active or not sys.stderr.isatty(),
            leave=False,
        )
        self.events = None
        if active and run and tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            # What an earlier process wrote of steps that are made again is hidden.
            purged = start + 1 if start else None
            self.events = SummaryWriter(str(run / "tensorboard"), purge_step=purged)
        self._failed = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        with suppress(OSError):  # which has been said
            if self.file is not None:
                self.file.close()
            if self.events is not None:
                self.events.close()

    def advance(self) -> None:
        """Count one step."""
        self.bar.update()

    def record(self, step: int, text: str, **figures: float) -> None:
        """Keep figures of a step, and show them as `text`."""
        if not self.active or self.file is None:
            return
        try:
            self.file.write(json.dumps({"step": step, **figures}) + "\n")
            self.file.flush()
            if self.events is not None:
                for name, value in figures.items():
                    self.events.add_scalar(name, value, step)
        except OSError as error:
            if not self._failed:
                self.say(f"{self.file.name}: cannot be written ({error.strerror}). Figures are shown alone.")
            self._failed = True
        self.say(text)

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        if self.active:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()


def resident_mebibytes() -> float:
    """Resident memory of this process, MiB."""
    return psutil.Process().memory_info().rss / 2**20
