"""A finished run's folder as one value: what its files say, before anything is computed."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.parser import changes, read_config
from trainer.config.schema import Config
from trainer.dataset.vocabulary import Vocabulary, open_vocabulary
from trainer.errors import CheckpointError, ConfigError
from trainer.formatting import format_command
from trainer.planning.plan import Plan, open_plan
from trainer.reporting.progress import PLACES
from trainer.runs.checkpoint_store import CONFIG, METRICS, check_is_run, finished_step
from trainer.runs.run_folder import PLAN, RECORDS
from trainer.runs.training_facts import Settings, read_ranks, read_settings

VALIDATION = "validation/"
"""What the names of validation figures begin with."""
FILES = ("interactions", "held_out", "impressions", "users", "items")
"""Options of `data` that name files, whose folders say nothing of the training."""


@dataclass(frozen=True)
class RunFacts:
    """What the files of a run say.

    Attributes:
        folder: The run folder.
        label: Its name in the report.
        config: Its configuration, without gaps.
        metrics: What `metrics.json` holds.
        records: Lines of `metrics.jsonl`, in the order of steps.
        plan: Its sharding plan; None where it cannot be read.
        settings: Where the settings came from; None in run folders of older versions.
        ranks: The largest memory of each rank; empty in run folders of older versions.
        vocabulary: Ids, titles, attributes, and what each user has.
    """

    folder: Path
    label: str
    config: Config
    metrics: dict[str, Any]
    records: list[dict[str, float]]
    plan: Plan | None
    settings: Settings | None
    ranks: list[dict[str, float]]
    vocabulary: Vocabulary

    @property
    def chosen(self) -> dict[str, Any]:
        """The trials of the choosing of settings; empty if nothing was chosen."""
        return self.metrics.get("chosen") or (self.settings.chosen if self.settings else {})

    @property
    def measured(self) -> bool:
        """Whether the run was evaluated on a held-out part."""
        return "model" in self.metrics

    @property
    def metric(self) -> str:
        """The metric that decides: `ndcg@10`, or the first if that was not computed."""
        metrics = self.metrics["model"]
        return "ndcg@10" if "ndcg@10" in metrics else next(iter(metrics))

    @property
    def losses(self) -> list[dict[str, float]]:
        """The records of training steps."""
        return [record for record in self.records if "loss" in record]

    @property
    def validations(self) -> list[dict[str, float]]:
        """The records of evaluations on the validation split."""
        return [record for record in self.records if any(name.startswith(VALIDATION) for name in record)]

    @property
    def validation_metric(self) -> str:
        """The metric by which the validations are compared."""
        names = [name.removeprefix(VALIDATION) for name in self.validations[0] if name.startswith(VALIDATION)]
        wanted = f"{self.config.run.metric}@{self.config.evaluation.k[0]}"
        return wanted if wanted in names else names[0]

    def over_steps(self, name: str) -> list[tuple[float, float]]:
        """Return step and value of the records that have a figure, for instance `loss`."""
        return [(record["step"], record[name]) for record in self.records if name in record]


def read_run(folder: Path, label: str | None = None) -> RunFacts:
    """Read the files of a finished run.

    Raises:
        CheckpointError: The folder is no run, the run is not finished, or a file is damaged.
    """
    check_is_run(folder)
    if finished_step(folder) is None:
        raise CheckpointError(
            f"{folder}: its training is not finished, and has no figures to report. Go on with: "
            f"{format_command('train', '--run.dir', folder)}"
        )
    plan = None
    with suppress(ConfigError):
        plan = open_plan(folder / PLAN)
    return RunFacts(
        folder=folder,
        label=label or folder.resolve().name,
        config=read_config(folder / CONFIG),
        metrics=json.loads((folder / METRICS).read_text()),
        records=_records(folder),
        plan=plan,
        settings=read_settings(folder),
        ranks=read_ranks(folder),
        vocabulary=open_vocabulary(folder),
    )


def labels(folders: list[Path]) -> list[str]:
    """Return a name for each run: that of its folder, or its path where two folders have the same name."""
    names = [folder.resolve().name for folder in folders]
    return [
        str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)
    ]


def settings_of_run(config: Config) -> dict[str, Any]:
    """Return the settings that are not at their defaults, by dotted name, without places on a disk."""
    return without_places(changes(Config(), config))


def without_places(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those that name places, and with the names alone of files."""
    return {
        key: Path(value).name if key in {f"data.{name}" for name in FILES} and value else value
        for key, value in values.items()
        if key not in (*PLACES, "sharding.plan", "run.origin")
    }


def format_setting(value: Any) -> str:
    """Return the value of a setting as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(format_setting, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {format_setting(each)}" for key, each in value.items()) or "none"
    return "null" if value is None else str(value)


def _records(folder: Path) -> list[dict[str, float]]:
    """Return the records of a run, without a line that was cut off."""
    found = []
    with suppress(OSError):
        for line in (folder / RECORDS).read_text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return sorted(found, key=lambda record: record["step"])
