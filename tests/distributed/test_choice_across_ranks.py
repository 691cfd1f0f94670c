"""What is chosen on a validation part does not depend on the number of ranks."""

from dataclasses import replace

import pytest

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.training.tuning import choose

pytestmark = pytest.mark.distributed


def test_one_rank_and_three_choose_the_same(tmp_path):
    config = configured(
        "--data.name synthetic --data.synthetic_users 200 --data.synthetic_items 90 --run.epochs 3",
        f"--data.synthetic_interactions 4000 --batches.size 64 --data.cache {tmp_path}",
    )
    unset = {"temperature": None, "low_rank": None, "low_rank_weight": None, "low_rank_penalty": None}
    config = replace(config, model=replace(config.model, **unset))
    (alone,), three = (run_on_ranks(size, chosen, config) for size in (1, 3))
    assert three[1:] == three[:1] * 2
    assert three[0][0] == pytest.approx(alone[0], abs=1e-3)
    assert three[0][1:] == pytest.approx(alone[1:], rel=0.02)


def chosen(world, config):
    settled, choice = choose(config, open_dataset(prepare_data(config.data)), world)
    model = settled.model
    best = max(choice.temperatures.values())
    return best, model.temperature, model.low_rank, model.low_rank_weight, model.low_rank_penalty
