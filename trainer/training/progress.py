"""Progress of a training: a bar or lines, metrics.jsonl, and TensorBoard events."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil
from tqdm import tqdm


class Progress:
    """Records of one run, which rank 0 shows and writes; other ranks are silent."""

    def __init__(
        self,
        run: Path | None,
        steps: int,
        active: bool,
        tensorboard: bool,
        start: int = 0,
        label: str = "training",
    ) -> None:
        """Open the run's records.

        Args:
            run: Run folder; None: nothing is recorded.
            steps: Steps of the whole training.
            active: Whether this rank records.
            tensorboard: Whether to write TensorBoard events.
            start: Steps that are done already.
            label: What the bar shows the progress of.
        """
        self.active = active
        self.file = (run / "metrics.jsonl").open("a") if active and run else None
        self.bar = tqdm(
            total=steps,
            initial=start,
            desc=label,
            unit="step",
            disable=not active or not sys.stderr.isatty(),
            leave=False,
        )
        self.events = None
        if active and run and tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            # Hides what an earlier process wrote of steps that are trained again.
            purged = start + 1 if start else None
            self.events = SummaryWriter(str(run / "tensorboard"), purge_step=purged)
        self._failed = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        with suppress(OSError):  # `record` has shown it
            if self.file is not None:
                self.file.close()
            if self.events is not None:
                self.events.close()

    def advance(self) -> None:
        """Advance the bar by a step."""
        self.bar.update()

    def record(self, step: int, text: str, **figures: float) -> None:
        """Write figures of a step, and show `text`."""
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
    """Return the resident memory of this process, in MiB."""
    return psutil.Process().memory_info().rss / 2**20
