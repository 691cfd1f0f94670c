"""The page of a run: the same bytes each time, nothing from outside, and a sentence for what is missing."""

import re
import shutil
from pathlib import Path

import pytest

from tests import worlds
from tests.report.conftest import SCRIPT
from trainer.errors import CheckpointError, ConfigError, UserError
from trainer.report import report
from trainer.report.report import default_file, write_report


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report([run], tmp_path_factory.mktemp("page") / "page.html").read_text()


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(run: Path, page: str, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    written = write_report([tmp_path / "run"])
    assert written == tmp_path / "run" / "report.html"
    assert written.read_text() == page
    assert str(run.parents[1]) not in page
    assert [path.name for path in written.parent.glob("*.partial*")] == []


def test_the_page_names_no_address_and_forbids_all(page: str) -> None:
    assert re.findall(r"""(?:src|href|action|data)\s*=\s*["']?(?!#)\S*:""", page.split("<script>")[0]) == []
    assert not re.search(r"""\s(?:src|href)=["']?https?:""", page)
    assert "@import" not in page
    assert "default-src 'none'; script-src 'sha256-" in page
    assert "'unsafe-inline'; img-src data:" in page
    assert len(page.encode()) < 3_000_000


def test_what_comes_from_data_is_text(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&#x27;title&#x27;)&lt;/script&gt; &amp; more" in page  # among recommendations
    assert "\\u003cscript\\u003ealert('title')\\u003c/script\\u003e \\u0026 more" in page  # on the map
    assert SCRIPT not in page


def test_the_summary_has_figure_interval_baseline_and_cost(page: str) -> None:
    summary = page[page.index('id="summary"') : page.index("<nav")]
    # A checkerboard is learned: everyone's withheld item comes first, whoever is drawn.
    assert "95% interval 1.0000 to 1.0000" in summary
    assert "beside popularity" in summary
    assert "training, 1 rank" in summary
    assert "3 tables" in summary


def test_settings_say_who_decided_them(page: str) -> None:
    assert '<code>model.dim</code></td><td>asked for</td><td class="number">8<' in page.replace("texts", "")
    assert "<code>batches.rows</code></td><td>by the size of the data</td>" in page
    assert "<code>model.temperature</code></td><td>fixed, without a trial</td>" in page
    assert "data.cache" not in page


def test_missing_parts_are_said_in_a_sentence(page: str, elsewhere: Path, tmp_path: Path) -> None:
    assert "No validation part was evaluated during the training" in page
    assert "Nothing was chosen by trial" in page
    other = write_report([elsewhere], tmp_path / "other.html").read_text()
    assert "No baselines were evaluated" in other


def test_a_run_of_an_older_version_whose_data_are_gone_is_reported_too(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    for name in ("settings.json", "ranks.json", "metrics.jsonl"):
        (old / name).unlink()
    config = old / "config.yaml"
    gone = config.read_text().replace("interactions.parquet", "gone.parquet")
    config.write_text(gone.replace(str(run.parent / "cache"), str(tmp_path / "cache")))
    page = write_report([old]).read_text()
    assert "did not keep what was asked for" in page
    assert "measured the memory of rank 0 alone" in page
    assert "has no records of its steps" in page
    assert (
        "The run was not evaluated again, so intervals and quality by group are missing: its data cannot be"
        in page
    )
    moved = str(run.parent / "interactions.parquet")
    again = write_report([old], options=["--data.interactions", moved]).read_text()
    assert "was not evaluated again" not in again
    assert "95% interval" in again


def test_bad_input_is_one_line_and_leaves_nothing(run: Path, tmp_path: Path, monkeypatch) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "metrics.json").unlink()
    for runs, out, options, error, message in (
        ([tmp_path / "none"], None, [], CheckpointError, "no run folder"),
        (
            [unfinished],
            None,
            [],
            CheckpointError,
            r"not finished.*Go on with: python -m trainer train --run.dir",
        ),
        ([run, run], None, [], ConfigError, "named twice"),
        ([run], tmp_path, [], ConfigError, "is a folder"),
        ([run], tmp_path / "no" / "x.html", [], ConfigError, "no such folder"),
        (
            [run],
            tmp_path / "x.html",
            ["--model.dim", "4"],
            ConfigError,
            "--model.dim: not an option of report",
        ),
    ):
        with pytest.raises(error, match=message) as caught:
            write_report(runs, out, options=options)
        assert "\n" not in str(caught.value)
    with pytest.raises(
        UserError, match=r"--colour size: no attribute of the items. Those that there are: kind"
    ):
        write_report([run], tmp_path / "x.html", "size")
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install altair vl-convert-python"):
        write_report([run], tmp_path / "x.html")
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"]
    assert not (unfinished / "report.html").exists()


def test_the_file_is_named_after_the_runs() -> None:
    runs = [Path("runs/a"), Path("runs/b"), Path("other/c"), Path("d"), Path("e")]
    assert default_file(runs[:1], ["a"]) == Path("runs/a/report.html")
    assert default_file(runs[:2], ["a", "b"]) == Path("report-a-and-b.html")
    assert default_file(runs, ["a", "b", "c", "d", "e"]) == Path("report-a-and-b-and-c-and-2-more.html")


def test_a_run_that_holds_nothing_out_says_so(run: Path, tmp_path: Path) -> None:
    options = ["--data.interactions", str(run.parent / "interactions.parquet"), "--data.name", "files"]
    cache = ["--data.cache", str(tmp_path / "cache"), "--data.split", "none", "--run.epochs", "1"]
    page = write_report([worlds.trained(tmp_path, *options, *cache)]).read_text()
    assert "Trained on every interaction, for serving; nothing was held out to be measured on." in page
    assert "Nothing was held out, so there is no part of the data to measure on." in page
    assert "before the test part" not in page
    assert 'class="user"' in page
