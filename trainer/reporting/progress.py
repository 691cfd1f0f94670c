"""Progress of a training: a bar or lines, metrics.jsonl, TensorBoard events, experiment trackers."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
import psutil
import pyarrow as pa
from tqdm import tqdm

from trainer.atomic_write import replaced, write_text
from trainer.config.schema import Config
from trainer.formatting import with_names
from trainer.reporting.trackers import Trackers

MOST_PROJECTED = 10_000
"""Most items in the embedding projector, which a browser holds in its memory."""
PLACES = ("run.dir", "data.root", "data.cache")
"""Options that name places, which have no effect on what is trained."""
PROJECTOR = """\
embeddings {
  tensor_name: "items"
  tensor_path: "items.tsv"
  metadata_path: "item_titles.tsv"
}
"""
"""Configuration of TensorBoard's projector, with the names of the files beside it."""


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
            disable=not active or not (sys.stderr.isatty() or in_notebook()),
            leave=False,
        )
        self.events = None
        if active and run and tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            # Hides what an earlier process wrote of steps that are trained again.
            purged = start + 1 if start else None
            self.events = SummaryWriter(str(run / "tensorboard"), purge_step=purged)
        self._trackers: Trackers | None = None
        self._run, self._finished, self._failed = run, False, False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if self._trackers is not None:
            self._trackers.close(self._finished)
        with suppress(OSError):  # `record` has shown it
            if self.file is not None:
                self.file.close()
            if self.events is not None:
                self.events.close()

    def track(self, config: Config) -> None:
        """Open the experiment trackers that a configuration asks for."""
        if self.active and self._run and config.run.trackers:
            self._trackers = Trackers(config.run.trackers, self._run, settings_of(config), self.say)

    def advance(self) -> None:
        """Advance the bar by a step."""
        self.bar.update()

    def record(self, step: int, text: str, **figures: float) -> None:
        """Write figures of a step, and show `text`."""
        if not self.active or self.file is None:
            return
        if self._trackers is not None:
            self._trackers.log(step, figures)
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

    def outcome(self, step: int, split: str, figures: dict[str, float], config: Config) -> None:
        """Write the figures of the final evaluation, next to the settings that gave them (hparams)."""
        named = {f"{split}/{name}": value for name, value in figures.items()}
        if self._trackers is not None:
            self._trackers.log(step, named)
        if self.events is not None:
            with self._tolerated():
                self.events.flush()
                self.events.add_hparams(settings_of(config), named, run_name=".", global_step=step)

    def finish(self) -> None:
        """Say to the trackers that the training is finished; without it, it is one that goes on later."""
        self._finished = True

    def project(self, ids: pa.Array, titles: pa.Array | None, vectors: np.ndarray) -> None:
        """Write item vectors for TensorBoard's embedding projector.

        Args:
            ids: Raw ids of the items.
            titles: Their titles, null where unknown; None: they have none.
            vectors: (items, D) float32.
        """
        if self.events is None:
            return
        folder = Path(self.events.get_logdir())
        names = titles if titles is not None else ids
        rows = [("id", "title")]
        for raw_id, name in zip(ids.to_pylist(), names.to_pylist(), strict=True):
            rows.append((raw_id, raw_id if name is None else name))
        lines = ["\t".join(" ".join(str(cell).split()) for cell in row) for row in rows]
        with self._tolerated():
            with replaced(folder / "items.tsv") as beside:
                np.savetxt(beside, vectors, fmt="%.5g", delimiter="\t")
            write_text(folder / "item_titles.tsv", "\n".join(lines) + "\n")
            write_text(folder / "projector_config.pbtxt", PROJECTOR)

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        """Say that TensorBoard's files cannot be written, and go on without them."""
        try:
            yield
        except OSError as error:
            self.say(f"{error.filename or 'tensorboard'}: cannot be written ({error.strerror}).")

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        if self.active:
            tqdm.write(with_names(text), file=sys.stdout)
            sys.stdout.flush()


def settings_of(config: Config) -> dict[str, int | float | str]:
    """Return the settings that decide a training by dotted name, as TensorBoard's hparams take them."""
    settings = {
        f"{section}.{name}": value
        for section, values in asdict(config).items()
        if isinstance(values, dict)
        for name, value in values.items()
        if value is not None and f"{section}.{name}" not in PLACES
    }
    return {key: value if type(value) in (int, float, str) else str(value) for key, value in settings.items()}


def in_notebook() -> bool:
    """Return whether this is the kernel of a notebook, whose stderr is no terminal and shows a bar."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def resident_mebibytes() -> float:
    """Return the resident memory of this process, in MiB."""
    return psutil.Process().memory_info().rss / 2**20
