"""Experiment trackers beside TensorBoard: settings, figures over steps, and the final figures of a run.

Each is one function in `TRACKERS`, which imports its package when it is called. A run keeps the ids that its
trackers gave it, so that a training that is resumed goes on in the same record.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer.atomic_write import write_text
from trainer.errors import ConfigError

IDS = "trackers.json"
"""File of the ids in a run folder."""
PROJECT = "shardtower"
"""Experiment (MLflow) or project (W&B), unless MLFLOW_EXPERIMENT_NAME or WANDB_PROJECT names another one."""
MOST_PARAMETERS, LONGEST = 100, 6000
"""What MLflow takes at a time: parameters, and characters of the value of one."""

Settings = Mapping[str, int | float | str]


@dataclass(frozen=True)
class Tracker:
    """An open record of a run.

    Attributes:
        id: Under which the tracker finds the record again.
        log: Takes a step and its figures.
        close: Takes whether the training is finished.
    """

    id: str
    log: Callable[[int, Mapping[str, float]], None]
    close: Callable[[bool], None]


@dataclass(frozen=True)
class TrackerKind:
    """How a tracker is opened.

    Attributes:
        module: What it imports.
        package: How that is installed.
        open: From the run folder, its settings, and the id of an earlier record or None, to the record.
    """

    module: str
    package: str
    open: Callable[[Path, Settings, str | None], Tracker]


def open_mlflow(run: Path, settings: Settings, earlier: str | None) -> Tracker:
    """Open a record in MLflow: at MLFLOW_TRACKING_URI, else in files under `mlruns` beside the run folder."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 refuses its own files without it
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    place = os.environ.get("MLFLOW_TRACKING_URI") or (run.absolute().parent / "mlruns").as_uri()
    client, name = MlflowClient(place), os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    if earlier is None:
        experiment = client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else client.create_experiment(name)
        earlier = client.create_run(where, run_name=run.absolute().name).info.run_id
    else:
        client.update_run(earlier, status="RUNNING")
    known = client.get_run(earlier).data.params
    values = {key: str(value)[:LONGEST] for key, value in settings.items()}
    new = [Param(key, value) for key, value in values.items() if key not in known]
    for start in range(0, len(new), MOST_PARAMETERS):
        client.log_batch(earlier, params=new[start : start + MOST_PARAMETERS])
    for key, value in values.items():
        if known.get(key, value) != value:  # a parameter is written once
            client.set_tag(earlier, f"resumed.{key}", value)

    def log(step: int, figures: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        named = {key.replace("@", "_at_"): float(value) for key, value in figures.items()}
        client.log_batch(earlier, metrics=[Metric(key, value, now, step) for key, value in named.items()])

    return Tracker(
        earlier, log, lambda done: client.set_terminated(earlier, "FINISHED" if done else "KILLED")
    )


def open_wandb(run: Path, settings: Settings, earlier: str | None) -> Tracker:
    """Open a record in Weights & Biases; WANDB_MODE=offline keeps it under `wandb` in the run folder."""
    import wandb

    record = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run.absolute().name,
        dir=str(run),
        id=earlier,
        resume="allow",
        config=dict(settings),
        settings=wandb.Settings(console="off", silent=True),
    )
    # Steps of our own: W&B's must rise, and steps may be trained again after a crash.
    record.define_metric("step")
    record.define_metric("*", step_metric="step")
    return Tracker(
        record.id,
        lambda step, figures: record.log({"step": step, **figures}),
        lambda done: record.finish(exit_code=0 if done else 1),
    )


TRACKERS = {
    "mlflow": TrackerKind("mlflow", "mlflow-skinny", open_mlflow),
    "wandb": TrackerKind("wandb", "wandb", open_wandb),
}
"""Trackers by the name that `--run.trackers` takes."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        ConfigError: One is missing; the message says how it is installed.
    """
    for name in names:
        kind = TRACKERS[name]
        if find_spec(kind.module) is None:
            raise ConfigError(
                f"--run.trackers {name}: the package {kind.package} is not installed. Run: pip install "
                f"{kind.package}, or leave {name} out"
            )


class Trackers:
    """The open trackers of a run. One that fails is named once and left out from then on."""

    def __init__(
        self, names: Sequence[str], run: Path, settings: Settings, say: Callable[[str], None]
    ) -> None:
        """Open them; on rank 0 alone.

        Args:
            names: Keys of `TRACKERS`.
            run: Run folder.
            settings: Settings of the run by dotted name.
            say: Shows a line.
        """
        self._say, self._open, path = say, dict[str, Tracker](), run / IDS
        ids: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            ids = json.loads(path.read_text())
        for name in names:
            with self._tolerated(name):
                self._open[name] = TRACKERS[name].open(run, settings, ids.get(name))
                ids[name] = self._open[name].id
                write_text(path, json.dumps(ids) + "\n")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures of a step."""
        for name, tracker in [*self._open.items()]:
            with self._tolerated(name):
                tracker.log(step, figures)

    def close(self, finished: bool) -> None:
        """Close the records, of a training that is finished or that goes on later."""
        for name, tracker in [*self._open.items()]:
            with self._tolerated(name):
                tracker.close(finished)
        self._open = {}

    @contextmanager
    def _tolerated(self, name: str) -> Iterator[None]:
        """Say that a tracker has failed, and go on without it: a training is worth more than its record."""
        try:
            yield
        except Exception as error:
            self._open.pop(name, None)
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._say(f"--run.trackers {name}: has failed ({first}). The training goes on without it.")
