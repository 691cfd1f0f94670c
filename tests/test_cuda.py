"""What only a GPU can show: the same training on CUDA as on the CPU, its run opened on the CPU."""

import json
from pathlib import Path

import pytest
import torch

from tests import worlds
from trainer.cli import main

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_a_training_on_cuda_loses_what_it_loses_on_the_cpu(optimizer: str, tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    losses = {}
    for device in ("cpu", "cuda"):
        run = tmp_path / device
        options = [*worlds.options(tmp_path, train, withheld), *worlds.QUICK, "--run.log_every", "1"]
        assert main([*options, "--optimizer.name", optimizer, "--device", device, "--run.dir", str(run)]) == 0
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[device] = torch.tensor([record["loss"] for record in records])
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=1e-3, atol=1e-5)


def test_a_run_on_cuda_is_measured_and_recommended_from_on_the_cpu(tmp_path: Path, capsys) -> None:
    train, withheld = worlds.checkerboard()
    run = tmp_path / "run"
    options = [*worlds.options(tmp_path, train, withheld), *worlds.QUICK]
    assert main([*options, "--device", "cuda", "--run.dir", str(run)]) == 0
    then = json.loads((run / "metrics.json").read_text())["model"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == pytest.approx(then, abs=1e-3)
    assert main(["recommend", str(run), "--user", str(train[0][0]), "--json"]) == 0
