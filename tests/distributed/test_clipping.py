"""Gradients of dense layers that are scaled down: the same at any number of ranks."""

from pathlib import Path

import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, small_dataset, source_of
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.fitting.components import assemble
from trainer.fitting.step import make_loss, train_step
from trainer.sharding.model_state import table_name

pytestmark = pytest.mark.distributed


def dense_gradient(world: World, folder: Path, largest_norm: float | None) -> torch.Tensor:
    """Gradients of all dense layers after the first step, one behind the other."""
    config = configured("--model.hidden 8 --model.learn_temperature true")
    dataset = open_dataset(folder)
    parts = assemble(config, dataset, world)
    batch = source_of(config, dataset, parts).make(0, world.rank, world.size)
    train_step(parts.model, parts.optimizer, batch, make_loss(config.loss, world), world, largest_norm)
    gradients = [value.grad for key, value in parts.model.named_parameters() if not table_name(key)]
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


@pytest.mark.parametrize("size", [1, 2])
def test_a_common_norm_bounds_them_and_keeps_their_direction(size, tmp_path):
    folder = small_dataset(tmp_path)
    (whole,) = run_on_ranks(1, dense_gradient, folder, None)
    norm = float(whole.norm())
    for gradient in run_on_ranks(size, dense_gradient, folder, norm / 4):
        torch.testing.assert_close(gradient, whole / 4, rtol=1e-3, atol=1e-6)
    for gradient in run_on_ranks(size, dense_gradient, folder, norm * 4):
        torch.testing.assert_close(gradient, whole, rtol=1e-3, atol=1e-6)
