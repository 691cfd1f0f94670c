"""Trainings on every row, which end without a measurement, do so at any number of ranks."""

import json
from pathlib import Path

import pytest

from tests import worlds
from tests.distributed.launches import end, start
from trainer.serving.recommend import recommend

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("several", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_training_on_everything_recommends_the_same_on_several_ranks(several: int, tmp_path: Path) -> None:
    board, withheld = worlds.checkerboard()
    data = worlds.options(tmp_path, [*board, *withheld[1:]], withheld[:1])
    everything = [*data, *worlds.QUICK, "--data.split", "none"]
    served = {}
    for ranks in (1, several):
        run = tmp_path / f"run-{ranks}"
        training = start(tmp_path, [*everything, "--run.dir", str(run)], ranks=ranks)
        printed, errors = end(training, 120)
        assert training.returncode == 0, errors
        assert printed.count("nothing was measured on a test part") == 1
        report = json.loads((run / "metrics.json").read_text())
        assert (report["split"], "model" in report) == ("none", False)
        served[ranks] = recommend(run, str(worlds.FIRST_USER))
    assert served[several]["item"].tolist() == served[1]["item"].tolist()
    assert served[several]["score"].tolist() == pytest.approx(served[1]["score"].tolist(), rel=1e-3)
    # The first user's withheld item stands in the file of held-out interactions, and was trained on too.
    assert dict(withheld)[worlds.FIRST_USER] not in served[1]["item"].tolist()
