"""What the loop does beside its steps, seen from whole trainings on small made-up data."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main

OPTIONS = (
    *("--data.name", "synthetic", "--data.synthetic_users", "60", "--data.synthetic_items", "30"),
    *("--data.synthetic_interactions", "900", "--data.validation_size", "0.3", "--model.dim", "8"),
    *("--model.low_rank", "0", "--model.temperature", "0.2", "--optimizer.name", "rowwise_adagrad"),
    *("--batches.size", "16", "--run.epochs", "6", "--run.evaluate_every", "1", "--run.patience", "2"),
    *("--run.tensorboard", "false", "--device", "cpu"),
)


def report(folder: Path, seen: str) -> dict[str, Any]:
    """`metrics.json` of a training whose final evaluation masks or keeps seen items."""
    cache, run = folder / "cache", folder / seen
    options = ["--data.cache", str(cache), "--run.dir", str(run), "--evaluation.seen", seen]
    assert main(["train", *OPTIONS, *options]) == 0
    return json.loads((run / "metrics.json").read_text())


def test_early_stopping_masks_seen_items_whatever_the_final_evaluation_does(tmp_path: Path) -> None:
    masked, kept = report(tmp_path, "mask"), report(tmp_path, "keep")
    assert kept["validation"] == masked["validation"]
    assert (masked["seen"], kept["seen"]) == ("mask", "keep")
    # Items that the model has learned take the places of those to be found.
    assert kept["model"]["ndcg@10"] < 0.9 * masked["model"]["ndcg@10"]
    assert kept["popularity"]["ndcg@10"] != pytest.approx(masked["popularity"]["ndcg@10"])
