"""`--deterministic true`: on CPU it changes nothing, as everything is deterministic already."""

import json
import os
from pathlib import Path

import pytest
import torch

from tests import worlds
from trainer.distributed import determinism
from trainer.distributed.determinism import CUBLAS, all_algorithms, deterministic


def test_on_cpu_nothing_changes(tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    records = {}
    for value in ("false", "true"):
        folder = tmp_path / value
        folder.mkdir()
        options = [*worlds.options(folder, train, withheld), "--run.log_every", "1", "--deterministic", value]
        run = worlds.trained(folder, *options)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        records[value] = [line["loss"] for line in lines if "loss" in line], worlds.figures(run)
    assert records["true"] == records["false"]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_on_cuda_the_settings_hold_within_the_training_alone(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism.torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv(CUBLAS, raising=False)
    if given:
        monkeypatch.setenv(CUBLAS, given)
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ[CUBLAS] == (given or ":4096:8")
        with all_algorithms():  # of an evaluation
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get(CUBLAS) == given
