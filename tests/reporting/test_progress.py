"""Records of a training, also where they cannot be written."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from trainer.config.parser import parse_config
from trainer.reporting.progress import Progress
from trainer.runs.run_folder import drop_later_records


def test_a_full_disk_is_reported_once_and_figures_are_still_shown(tmp_path: Path, capsys) -> None:
    with Progress(tmp_path, 3, active=True, tensorboard=False) as progress:
        assert progress.file is not None
        progress.file.close()
        progress.file = Path("/dev/full").open("w")  # noqa: SIM115
        for step in (1, 2):
            progress.record(step, f"step {step}", loss=0.5)
    assert capsys.readouterr().out.splitlines() == [
        "/dev/full: cannot be written (No space left on device). Figures are shown alone.",
        "step 1",
        "step 2",
    ]


def test_steps_that_are_trained_again_are_recorded_once(tmp_path: Path) -> None:
    for start, steps, loss in ((0, (1, 2, 3), 9.0), (1, (2, 3, 4), 5.0)):
        drop_later_records(tmp_path, start)
        with Progress(tmp_path, 4, active=True, tensorboard=True, start=start) as progress:
            for step in steps:
                progress.record(step, "", loss=loss)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = [(1, 9.0), (2, 5.0), (3, 5.0), (4, 5.0)]
    assert [(line["step"], line["loss"]) for line in lines] == expected
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == expected


def test_a_line_that_was_cut_off_is_not_a_record(tmp_path: Path) -> None:
    records = tmp_path / "metrics.jsonl"
    records.write_text('{"step": 1}\n{"step": 5}\n{"step": 2, "lo')
    drop_later_records(tmp_path, 4)
    assert records.read_text() == '{"step": 1}\n'


def test_tensorboard_has_the_final_figures_beside_the_settings(tmp_path: Path) -> None:
    config = parse_config(["--model.dim", "64", "--model.hidden", "8,4", "--run.dir", str(tmp_path)])
    with Progress(tmp_path, 80, active=True, tensorboard=True) as progress:
        progress.record(80, "", loss=0.5)
        progress.outcome(80, "test", {"ndcg@10": 0.25, "recall@10": 0.5}, config)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (figure,) = events.Scalars("test/ndcg@10")
    assert (figure.step, figure.value) == (80, 0.25)
    assert events.Scalars("loss")[0].value == 0.5
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["model.dim"].number_value == 64
    assert settings["model.hidden"].string_value == "[8, 4]"
    assert settings["model.item_bias"].string_value == "True"
    assert "run.dir" not in settings
    assert "model.temperature" not in settings  # null: it had been given no value


@pytest.mark.parametrize("titles", [None, pa.array(["Fargo\t(1996)", None])])
def test_tensorboard_has_item_vectors_with_their_titles(titles, tmp_path: Path) -> None:
    vectors = np.array([[1.5, -0.25, 3e-7], [0.1, 2.0, 0.0]], np.float32)
    with Progress(tmp_path, 1, active=True, tensorboard=True) as progress:
        progress.project(pa.array([50, 181]), titles, vectors)
    folder = tmp_path / "tensorboard"
    text = (folder / "projector_config.pbtxt").read_text()
    (described,) = text_format.Parse(text, ProjectorConfig()).embeddings
    np.testing.assert_allclose(np.loadtxt(folder / described.tensor_path), vectors, rtol=1e-4)
    rows = (folder / described.metadata_path).read_text().splitlines()
    named = ["50\t50", "181\t181"] if titles is None else ["50\tFargo (1996)", "181\t181"]
    assert rows == ["id\ttitle", *named]


def test_what_tensorboard_cannot_write_does_not_end_a_training(tmp_path: Path, capsys) -> None:
    with Progress(tmp_path, 1, active=True, tensorboard=True) as progress:
        (tmp_path / "tensorboard" / "items.tsv").mkdir()
        progress.project(pa.array([50]), None, np.ones((1, 2), np.float32))
    assert capsys.readouterr().out.endswith("cannot be written (Is a directory).\n")


def test_bars_say_what_they_show_the_progress_of(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(
        None, 3, active=True, tensorboard=False, label="choosing, trial 3 of at most 9"
    ) as progress:
        progress.advance()
        progress.bar.refresh()
    assert "choosing, trial 3 of at most 9:  33%" in capsys.readouterr().err
