"""Several runs on one page: paired where users are the same, and said otherwise."""

import json
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.report.comparison import compare, comparison_page
from trainer.report.facts import labels, read_run
from trainer.report.report import write_report


def test_differences_are_those_of_evaluate_compare(run: Path, narrow: Path, capsys) -> None:
    first, second = compare([read_run(run), read_run(narrow)])
    assert first.paired is not None
    assert {each.difference for each in first.paired.values()} == {0.0}
    assert main(["evaluate", str(narrow), "--compare", str(run), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["compare"]
    assert second.paired is not None
    assert second.paired["ndcg@1"].difference == pytest.approx(expected["ndcg@1"]["difference"])
    # Other resamples, and fewer of them.
    assert second.paired["ndcg@2"].low == pytest.approx(expected["ndcg@2"]["low"], abs=0.05)


def test_the_page_says_what_differs_and_what_cannot_be_compared(
    run: Path, narrow: Path, elsewhere: Path, tmp_path: Path
) -> None:
    page = write_report([run, narrow, elsewhere], tmp_path / "page.html").read_text()
    settings = page[page.index('id="settings"') : page.index('id="training"')]
    assert "<code>model.dim</code></td><td>8</td><td>4</td><td>8</td>" in settings
    assert "<code>run.epochs</code></td><td>20</td><td>10</td><td>2</td>" in settings
    assert "<code>data.validation_size</code></td><td>0</td><td>0.1</td><td>0</td>" in settings
    assert "data.cache" not in settings
    assert "cannot be paired with" in page
    assert "their users, what these had before or what is to be found differ" in page
    assert str(run.parents[1]) not in page.replace(str(run), "").replace(str(narrow), "").replace(
        str(elsewhere), ""
    )


def test_pages_of_several_runs_are_the_same_each_time(run: Path, narrow: Path) -> None:
    found = [comparison_page([read_run(run, "a"), read_run(narrow, "b")]).text() for _ in range(2)]
    assert found[0] == found[1]


def test_runs_are_named_by_their_folders_unless_these_are_alike() -> None:
    assert labels([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert labels([Path("one/run"), Path("two/run"), Path("b")]) == ["one/run", "two/run", "b"]
