"""The steps from the notebook's recipe to ours: where they lead, and that the page shows what is measured."""

from pathlib import Path

import pytest

from tests.benchmarks import notebook_steps
from tests.benchmarks.notebook_steps import CHOICES, STEPS, Measured, cumulative
from trainer.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "configs" / "FROM_THE_NOTEBOOK.md"
TINY = (
    "--data.name synthetic --data.synthetic_users 40 --data.synthetic_items 30 "
    "--data.synthetic_interactions 400 --run.epochs 1 --model.dim 8"
)


def configuration(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """Lines of the configuration that results from options, but for what is logged."""
    capsys.readouterr()
    assert main([*options, "--print_config"]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if "log_every" not in line]


def test_all_steps_together_are_the_default_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    steps = configuration(capsys, *cumulative([*STEPS, *CHOICES]), "--data.name", "ml-100k")
    assert steps == configuration(capsys, "--config", str(ROOT / "configs" / "default.yaml"))


def test_every_step_changes_the_configuration_and_can_be_taken_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = configuration(capsys, "--config", str(ROOT / "configs" / "notebook.yaml"))
    complete = configuration(capsys, *cumulative(STEPS))
    for number, step in enumerate([*STEPS, *CHOICES], start=1):
        after = configuration(capsys, *cumulative([*STEPS, *CHOICES][:number]))
        assert after != before, step.name
        before = after
        if step.undo:
            assert configuration(capsys, *cumulative(STEPS), *step.undo.split()) != complete, step.name


def test_a_recipe_is_measured_with_seen_items_masked_and_kept(tmp_path: Path) -> None:
    measured = notebook_steps.measure(
        [*cumulative(STEPS), *TINY.split(), "--data.cache", str(tmp_path)], seed=1
    )
    assert set(measured.ndcg) == set(measured.kept) == {"model", "popularity", "random"}
    assert measured.ndcg["popularity"] != measured.kept["popularity"]
    assert measured.seconds > 0


def test_options_that_the_trainer_refuses_end_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        notebook_steps.measure(["--model.dim", "7"], seed=1)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --model.dim 7")


def test_a_row_has_the_median_of_the_seeds_and_what_the_step_is_worth_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(options: list[str], seed: int) -> Measured:
        """Squared error has a tenth of the figure of everything else; the seeds 1, 2 and 6 tell how much."""
        figure = seed / 10 * (0.1 if "--loss.name mse" in " ".join(options) else 1)
        return Measured({"model": figure, "random": 0.01, "popularity": 0.02}, {"model": 0.5}, float(seed))

    monkeypatch.setattr(notebook_steps, "measure", measure)
    monkeypatch.setattr(notebook_steps, "REFERENCES", ())
    rows = list(notebook_steps.ladder([], [1, 6, 2]))
    assert [row[0] for row in rows] == [str(number) for number in range(len(STEPS) + len(CHOICES))]
    softmax = next(row for row in rows if "softmax" in row[1])
    assert softmax[3:] == ["0.2000", "0.5000", "0.5000", "0.0200", "2.0"]
    assert rows[0][3:] == ["0.2000", "0.5000", "0.5000", "", "2.0"]


def test_the_page_shows_the_steps_with_their_options() -> None:
    shown = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    assert shown[0] == list(notebook_steps.COLUMNS)
    steps = [[str(number), step.name, f"`{step.options}`"] for number, step in enumerate((*STEPS, *CHOICES))]
    assert [row[:3] for row in shown[2:]] == steps + [["", name, ""] for name in notebook_steps.REFERENCES]
