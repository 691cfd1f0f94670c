"""Records of a training, also where they cannot be written."""

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.runs.run_folder import drop_later_records
from trainer.training.progress import Progress


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
