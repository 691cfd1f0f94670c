"""What trainings, plans, help and errors give is what they gave when it was recorded; see README.md."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from tests.golden import cases, produce, record

SAME_MACHINE = record.on_the_same_machine()
REMEDY = "If that is meant, run python -m tests.golden.record and say why in CHANGELOG.md"


def check(group: str, name: str, found: Any, rtol: float = 0.0) -> None:
    """Fail with a line for each value that is not as recorded."""
    path = record.file_of(group, name, found)
    assert path.is_file(), f"{path.relative_to(record.HERE)} is not recorded. {REMEDY}"
    if isinstance(found, str):
        assert found == path.read_text(), REMEDY
    lines = [] if isinstance(found, str) else record.differences(json.loads(path.read_text()), found, rtol)
    if lines := list(lines):
        pytest.fail("\n".join([*lines[:20], f"{len(lines)} values differ. {REMEDY}"]), pytrace=False)


def train(folder: Path, ranks: int) -> dict[str, Any]:
    """Losses and metrics of all trainings at so many ranks; what was said where one has not ended."""
    said = produce.trained(folder, ranks, record.training_cases(ranks))
    runs = {name: folder / "runs" / name for name in record.training_cases(ranks)}
    ended = {name: run for name, run in runs.items() if (run / "metrics.json").is_file()}
    return dict.fromkeys(runs, said) | {name: produce.training(run) for name, run in ended.items()}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("one")
    return folder, train(folder, 1)


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(tmp_path_factory.mktemp("three"), 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faulty")
    produce.lay_out_for_errors(folder)
    return folder


@pytest.mark.parametrize("name", record.training_cases(1))
def test_losses_and_metrics_are_as_recorded(name: str, one_rank) -> None:
    _check_training(f"{name}.1", one_rank[1][name])


@pytest.mark.distributed
@pytest.mark.parametrize("name", record.training_cases(3))
def test_losses_and_metrics_at_three_ranks_are_as_recorded(name: str, three_ranks) -> None:
    _check_training(f"{name}.3", three_ranks[name])


def _check_training(name: str, found: Any) -> None:
    if isinstance(found, str):
        pytest.fail(f"{found[-3000:]}\n{name} has not ended", pytrace=False)
    check("trainings", name, found, 0.0 if SAME_MACHINE else record.RTOL)


@pytest.mark.parametrize("name", cases.READINGS)
def test_evaluations_and_recommendations_are_as_recorded(name: str, one_rank) -> None:
    found = produce.reading(name, one_rank[0])
    if isinstance(found, str) and not SAME_MACHINE:
        pytest.skip("rounded figures of another machine may differ in their last digit")
    check("readings", name, found, 0.0 if SAME_MACHINE else record.RTOL)


@pytest.mark.parametrize("name", cases.PLANS)
def test_a_plan_in_json_is_as_recorded(name: str, folder: Path) -> None:
    check("plans", name, produce.shown(produce.plan(name, folder, "--json")))


@pytest.mark.parametrize("name", cases.PLAN_TEXTS)
def test_the_text_of_a_plan_is_as_recorded(name: str, folder: Path) -> None:
    check("plan_texts", name, produce.shown(produce.plan(name, folder)))


def test_two_plans_compared_are_as_recorded(folder: Path) -> None:
    check("plan_texts", "compared", produce.shown(produce.compared(folder)))


@pytest.mark.parametrize("command", cases.COMMANDS)
def test_help_is_as_recorded(command: str, folder: Path) -> None:
    version = json.loads(record.MACHINE.read_text())["python"]
    if platform.python_version_tuple()[:2] != tuple(version.split(".")):
        pytest.skip(f"argparse lays help out otherwise than Python {version}, with which it was recorded")
    check("help", command, produce.shown(produce.run_command([command, "--help"], folder)))


@pytest.mark.parametrize("name", cases.ERRORS)
def test_an_error_is_as_recorded(name: str, faulty: Path) -> None:
    check("errors", name, produce.error(name, faulty))


def test_every_recorded_file_belongs_to_a_case() -> None:
    names = {
        "trainings": [f"{name}.{ranks}" for ranks in (1, 3) for name in record.training_cases(ranks)],
        "readings": cases.READINGS,
        "plans": cases.PLANS,
        "plan_texts": [*cases.PLAN_TEXTS, "compared"],
        "help": cases.COMMANDS,
        "errors": cases.ERRORS,
    }
    assert names.keys() == set(record.GROUPS)
    for group, of_cases in names.items():
        assert {path.stem for path in (record.HERE / group).iterdir()} == set(of_cases), group
