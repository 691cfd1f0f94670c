"""What the `plan` command gives out: a plan shown, saved, drawn and compared, without a process group."""

import json
from dataclasses import dataclass
from pathlib import Path

from trainer.atomic_write import write_text
from trainer.config.schema import Config
from trainer.config.size_defaults import closed_form_is_open
from trainer.errors import ConfigError
from trainer.inspection.advisor import alternatives, best_change, plan_of, remedies
from trainer.inspection.plan_diff import compare_plans, comparison_text
from trainer.inspection.plan_picture import picture
from trainer.inspection.plan_text import advice_words, plan_words, remedy_words
from trainer.inspection.scenario import Scenario, make_scenario
from trainer.planning.capacity import TooLargeError
from trainer.planning.layout import follow_plan
from trainer.planning.plan import Plan, as_dict, open_plan, save_plan

CHOSEN_LATER = """\
Training may add tables of a closed form, of a width that it chooses on a
validation part: --model.low_rank 128 plans them, --model.low_rank 0 leaves them
out of both."""


@dataclass(frozen=True)
class Outputs:
    """What becomes of a plan beside what is printed.

    Attributes:
        as_json: print the plan as JSON alone.
        save, picture: files for its JSON and its SVG.
        compare: file of another plan, to be set beside it.
    """

    as_json: bool
    save: Path | None
    picture: Path | None
    compare: Path | None


def plan_a_case(
    config: Config,
    rows: dict[str, int],
    hardware: str | None,
    world_size: int,
    local_world_size: int | None,
    outputs: Outputs,
) -> str:
    """Plan the tables of a configuration; see `make_scenario`. Returns what is to be printed.

    Raises: ConfigError, with numbered remedies if the tables do not fit.
    """
    config = follow_plan(config, world_size)
    case = make_scenario(config, rows, hardware, world_size, local_world_size)
    try:
        plan = plan_of(case)
    except TooLargeError as error:
        raise ConfigError(f"{error}. What would fit:{remedy_words(remedies(case))}") from None
    text = _given_out(plan, outputs, case.hardware.source)
    if outputs.as_json or outputs.compare:
        return text
    advice = advice_words(plan, best_change(plan, alternatives(case)))
    return "\n".join([_title(case), text, advice, *([CHOSEN_LATER] if closed_form_is_open(config) else [])])


def plan_of_file(path: Path, outputs: Outputs) -> str:
    """The plan in a file, such as the one that a run used. Returns what is to be printed.

    Raises: ConfigError if it cannot be read.
    """
    return _given_out(open_plan(path), outputs, "")


def _given_out(plan: Plan, outputs: Outputs, source: str) -> str:
    """Write the files that are asked for; returns what is to be printed of the plan."""
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
        return plan_words(plan, source)
    return comparison_text(compare_plans(plan, other), ("this plan", str(outputs.compare)))


def _title(case: Scenario) -> str:
    """What the configuration and the sizes decide about the tables and their visits."""
    config, optimizer = case.config, case.config.optimizer
    return (
        f"A step of {case.sizes.rows:,} rows and {case.sizes.candidates:,} candidates, "
        f"dim {config.model.dim}, {optimizer.name}"
    )
