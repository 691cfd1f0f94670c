import pytest
import torch
from ranks import outcomes_on_ranks, run_on_ranks

from trainer.errors import DataError
from trainer.parallel.world import World

pytestmark = pytest.mark.distributed


def gather_with_gradient(world, parts):
    rows = parts[world.rank].clone().requires_grad_()
    gathered = world.gather_rows(rows, [len(part) for part in parts])
    # Each rank weighs the rows in its own way, so that a gradient that misses a rank is another number.
    weights = torch.arange(1.0, gathered.numel() + 1).view_as(gathered) * (world.rank + 1)
    (gathered * weights).sum().backward()
    return gathered.detach(), rows.grad


@pytest.mark.parametrize("counts", [(2, 2), (3, 0, 1), (0, 0, 0, 2)], ids=str)
def test_gathered_rows_and_their_gradient_are_those_of_a_plain_cat(counts):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(count, 3, generator=generator) for count in counts]
    whole = torch.cat(parts).requires_grad_()
    ranks = len(counts)
    # The sum of the ranks' losses weighs element n by (1 + 2 + ... + ranks) * n.
    weights = torch.arange(1.0, whole.numel() + 1).view_as(whole) * (ranks * (ranks + 1) / 2)
    (whole * weights).sum().backward()
    results = run_on_ranks(ranks, gather_with_gradient, parts)
    for gathered, _ in results:
        assert torch.equal(gathered, whole)
    assert torch.equal(torch.cat([gradient for _, gradient in results]), whole.grad)
