"""What is chosen on a validation part does not depend on the number of ranks."""

import json
from dataclasses import replace

import pytest

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.errors import UserError
from trainer.tuning import tuning
from trainer.tuning.tuning import choose

pytestmark = pytest.mark.distributed


def open_config(folder):
    """A configuration whose temperature and closed form are to be chosen."""
    config = configured(
        "--data.name synthetic --data.synthetic_users 200 --data.synthetic_items 90 --run.epochs 3",
        f"--data.synthetic_interactions 4000 --batches.size 64 --data.cache {folder}",
    )
    unset = {"temperature": None, "low_rank": None, "low_rank_weight": None, "low_rank_penalty": None}
    return replace(config, model=replace(config.model, **unset))


def test_one_rank_and_three_choose_the_same(tmp_path):
    config = open_config(tmp_path)
    (alone,), three = (run_on_ranks(size, chosen, config) for size in (1, 3))
    assert three[1:] == three[:1] * 2
    assert three[0][0] == pytest.approx(alone[0], abs=1e-3)
    assert three[0][1:] == pytest.approx(alone[1:], rel=0.02)


def test_ranks_that_stop_in_the_middle_go_on_together_and_choose_the_same(tmp_path):
    config, run = open_config(tmp_path), tmp_path / "run"
    run.mkdir()
    with pytest.raises(UserError, match="stopped here"):
        run_on_ranks(2, chosen, config, run, 3)
    finished = json.loads((run / "tuning" / "trials.json").read_text())["figures"]
    assert len(finished) == 2
    again, whole = (run_on_ranks(2, chosen, config, folder) for folder in (run, None))
    assert again == whole


def chosen(world, config, run=None, stopped_at=None):
    fit, calls = tuning.fit, []

    def counted(*arguments, **named):
        calls.append(arguments)
        if len(calls) == stopped_at:
            raise UserError("stopped here")
        return fit(*arguments, **named)

    tuning.fit = counted  # in a process of its own
    settled, choice = choose(config, open_dataset(prepare_data(config.data)), world, run)
    model = settled.model
    best = max(choice.temperatures.values())
    return best, model.temperature, model.low_rank, model.low_rank_weight, model.low_rank_penalty
