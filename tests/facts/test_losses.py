"""The table of losses agrees with the schema, with the functions it names, and with what users are told."""

from pkgutil import resolve_name
from typing import get_args

import pytest

from trainer.errors import ConfigError
from trainer.facts.losses import LOSSES, LossName, loss_spec, losses_where


def test_the_schema_offers_exactly_the_losses_of_the_table() -> None:
    assert get_args(LossName) == tuple(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_function(name: str) -> None:
    assert callable(resolve_name(LOSSES[name].function))


def test_losses_are_listed_by_a_fact_about_them() -> None:
    assert losses_where(lambda spec: spec.needs_values) == "mse or bce"
    assert losses_where(lambda spec: spec.serves_history) == "softmax or bpr"


def test_an_unknown_loss_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"loss\.name is 'hinge', expected one of softmax, bpr, mse, bce"):
        loss_spec("hinge")
