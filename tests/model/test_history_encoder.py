"""States of ordered histories are the decaying sums that the formula says, of what stands before them
alone."""

import math

import numpy as np
import pytest
import torch

from trainer.histories.slots import Slots, make_slots
from trainer.model.history_encoder import HistoryEncoder

VECTORS = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def slots(*histories: list[int], times: list[int] | None = None, factors: list[float] | None = None) -> Slots:
    """Return the slots of histories with every state of theirs as a row."""
    lengths = np.array([len(history) for history in histories])
    before = np.concatenate([np.arange(length + 1) for length in lengths])
    return make_slots(
        lengths,
        np.concatenate(histories).astype(np.int64),
        None if times is None else np.array(times),
        stretches=np.repeat(np.arange(len(lengths)), lengths + 1),
        before=before,
        factors=None if factors is None else np.repeat(np.array(factors)[:, None], 8, axis=1),
    )


def encoder(length: int = 10, decay: float = 0.5, **options: bool) -> HistoryEncoder:
    torch.manual_seed(1)
    made = HistoryEncoder(8, length, **options)
    for parameter in (made.log_decay, made.log_time_decay):
        if parameter is not None:
            torch.nn.init.constant_(parameter, math.log(decay))
    return made


def test_an_item_weighs_less_the_further_back_it_stands() -> None:
    states = encoder()(VECTORS, slots([2, 4, 1]))
    fade = math.exp(-0.5)
    expected = [
        torch.zeros(8),
        VECTORS[2],
        VECTORS[4] + fade * VECTORS[2],
        VECTORS[1] + fade * VECTORS[4] + fade**2 * VECTORS[2],
    ]
    torch.testing.assert_close(states, torch.stack(expected))


def test_a_state_looks_back_as_far_as_the_length_and_no_further() -> None:
    states = encoder(length=2)(VECTORS, slots([2, 4, 1]))
    torch.testing.assert_close(states[3], VECTORS[1] + math.exp(-0.5) * VECTORS[4])


def test_with_time_an_item_weighs_less_the_longer_it_came_before_the_last_one() -> None:
    states = encoder(by_position=False, by_time=True)(VECTORS, slots([2, 4], times=[0, 3 * 3600]))
    torch.testing.assert_close(states[2], VECTORS[4] + (1 + 3) ** -0.5 * VECTORS[2])


def test_position_and_time_multiply() -> None:
    states = encoder(by_time=True)(VECTORS, slots([2, 4], times=[0, 3 * 3600]))
    weight = math.exp(-0.5) * (1 + 3) ** -0.5
    torch.testing.assert_close(states[2], VECTORS[4] + weight * VECTORS[2])


def test_a_dropped_item_is_in_no_state() -> None:
    states = encoder()(VECTORS, slots([2, 4], factors=[0, 2]))
    torch.testing.assert_close(states, torch.stack([torch.zeros(8), torch.zeros(8), 2 * VECTORS[4]]))


@pytest.mark.parametrize("attention", [False, True])
def test_histories_side_by_side_have_the_states_that_each_has_alone(attention: bool) -> None:
    made = encoder(attention=attention)
    if attention:
        torch.nn.init.normal_(made.attention.output.weight)  # type: ignore[union-attr]
    together = made(VECTORS, slots([2, 4, 1], [3], [0, 5]))
    alone = torch.cat([made(VECTORS, slots(each)) for each in ([2, 4, 1], [3], [0, 5])])
    torch.testing.assert_close(together, alone)


def test_no_state_depends_on_what_comes_after_it() -> None:
    made = encoder(attention=True, by_time=True)
    torch.nn.init.normal_(made.attention.output.weight)  # type: ignore[union-attr]
    one = made(VECTORS, slots([2, 4, 1, 3], times=[0, 10, 20, 30]))
    other = made(VECTORS, slots([2, 4, 5, 0], times=[0, 10, 70, 90]))
    torch.testing.assert_close(one[:3], other[:3])
    assert not torch.allclose(one[3], other[3])


def test_attention_looks_back_as_far_as_the_length() -> None:
    made = encoder(length=2, attention=True)
    torch.nn.init.normal_(made.attention.output.weight)  # type: ignore[union-attr]
    long, short = made(VECTORS, slots([2, 4, 1])), made(VECTORS, slots([4, 1]))
    torch.testing.assert_close(long[-1], short[-1])


def test_attention_starts_as_the_decaying_sum() -> None:
    histories = slots([2, 4, 1], [3])
    torch.testing.assert_close(encoder(attention=True)(VECTORS, histories), encoder()(VECTORS, histories))


def test_the_decays_are_learned() -> None:
    made = encoder(by_time=True)
    made(VECTORS, slots([2, 4, 1], times=[0, 3600, 9000])).square().sum().backward()
    assert made.log_decay is not None
    assert made.log_decay.grad is not None
    assert made.log_decay.grad != 0
    assert made.log_time_decay is not None
    assert made.log_time_decay.grad is not None
    assert made.log_time_decay.grad != 0


def test_no_history_at_all_has_the_state_zero() -> None:
    assert encoder(attention=True)(VECTORS, slots([])).tolist() == [[0.0] * 8]
