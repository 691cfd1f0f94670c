"""Output of the `plan` command: a plan printed, saved, drawn or compared."""

import json
from dataclasses import dataclass
from pathlib import Path

from trainer.atomic_write import write_text
from trainer.batching.tower_inputs import USER
from trainer.config.schema import Config
from trainer.config.size_defaults import closed_form_is_open, history_is_open
from trainer.dataset.split import BY_TIME
from trainer.errors import ConfigError
from trainer.facts.losses import loss_spec
from trainer.formatting import wrapped
from trainer.inspection.advisor import alternatives, best_change, remedies
from trainer.inspection.changes import plan_of
from trainer.inspection.plan_diff import compare_plans, comparison_text
from trainer.inspection.plan_picture import picture
from trainer.inspection.plan_text import advice_text, plan_text, remedies_text
from trainer.inspection.scenario import Scenario
from trainer.planning.capacity import TooLargeError
from trainer.planning.plan import Plan, as_dict, open_plan, save_plan
from trainer.storage.id_hashes import collisions_text, expected_collisions

CLOSED_FORM_NOTE = """\
Training may add tables of a closed form, of a width that it chooses on a
validation part: --model.low_rank 128 plans them, --model.low_rank 0 leaves them
out of both."""

ORDER_NOTE = """\
Training may choose ordered histories, as the split goes by time, whose tables
differ: --model.history recency plans them, --model.history none leaves them out
of both."""


@dataclass(frozen=True)
class Outputs:
    """What to print and which files to write.

    Attributes:
        as_json: Print the plan as JSON and nothing else.
        save: File for its JSON.
        picture: File for its SVG.
        compare: File of another plan to compare it with.
    """

    as_json: bool
    save: Path | None
    picture: Path | None
    compare: Path | None


def report_of_scenario(scenario: Scenario, outputs: Outputs) -> str:
    """Plan the tables of a scenario, write the files asked for, and return the text to print.

    Raises:
        ConfigError: The tables do not fit, with numbered remedies, or cannot be sharded as asked.
    """
    try:
        plan = plan_of(scenario)
    except TooLargeError as error:
        raise ConfigError(f"{error}. What would fit:{remedies_text(remedies(scenario))}") from None
    text = _report(plan, outputs, scenario.cluster.hardware.source)
    if outputs.as_json or outputs.compare:
        return text
    advice = advice_text(plan, best_change(plan, alternatives(scenario)))
    return "\n".join(
        [_title(scenario, plan), *_hashed_texts(scenario), text, advice, *_notes(scenario.asked)]
    )


def _notes(asked: Config) -> list[str]:
    """Return what training may decide otherwise than the plan."""
    notes = [CLOSED_FORM_NOTE] if closed_form_is_open(asked) else []
    by_time = asked.data.split in (*BY_TIME, "none") and asked.data.held_out is None
    may_have_order = asked.run.choose and by_time and history_is_open(asked)
    return [*notes, *([ORDER_NOTE] if may_have_order and loss_spec(asked.loss.name).serves_ordered else [])]


def report_of_file(path: Path, outputs: Outputs) -> str:
    """Read a plan, such as that of a run, write the files asked for, and return the text to print.

    Raises:
        ConfigError: The plan cannot be read.
    """
    return _report(open_plan(path), outputs, "")


def _report(plan: Plan, outputs: Outputs, source: str) -> str:
    """Write the files asked for, and return the text of the plan or of its comparison."""
    other = open_plan(outputs.compare) if outputs.compare else None
    if outputs.save:
        save_plan(plan, outputs.save)
    if outputs.picture:
        try:
            write_text(outputs.picture, picture(plan))
        except OSError as error:
            raise ConfigError(
                f"--picture {outputs.picture}: cannot be written ({error.strerror}). Name another file"
            ) from None
    if outputs.as_json:
        return json.dumps(as_dict(plan), indent=2)
    if other is None:
        return plan_text(plan, source)
    return comparison_text(compare_plans(plan, other), ("this plan", str(outputs.compare)))


def _title(scenario: Scenario, plan: Plan) -> str:
    """Return the facts of the configuration that the plan depends on, and the kernels of its tables."""
    kernels = sorted({table.kernel for table in plan.tables})
    plural = "s" if len(kernels) > 1 else ""
    model, optimizer, workload = scenario.config.model, scenario.config.optimizer, scenario.workload
    return (
        f"A step of {workload.rows:,} rows and {workload.candidates:,} candidates, "
        f"dim {model.dim}, {optimizer.name} ({' and '.join(kernels)} kernel{plural})"
    )


def _hashed_texts(scenario: Scenario) -> list[str]:
    """Return how many ids of each side can be expected to share rows; empty where none are hashed."""
    rows, workload, size = scenario.config.model.hashed_rows, scenario.workload, scenario.data_size
    sides = {workload.item_name: size.items} | ({USER: size.users} if USER in workload.user_tables else {})
    return [
        wrapped(collisions_text(side, expected_collisions(sides[side], rows), expected=True))
        for side in sorted(sides, key=lambda side: side != USER)
        if rows
    ]
