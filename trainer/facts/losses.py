"""The losses that can be trained: facts about each for validation, planning, batching, tuning and serving.

A new loss is an entry of `LOSSES` with its name in `LossName`, and the function that the entry points to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainer.errors import ConfigError

LossName: TypeAlias = Literal["softmax", "bpr", "mse", "bce"]


@dataclass(frozen=True)
class LossSpec:
    """Facts about one loss.

    Attributes:
        function: Where it is computed, as `package.module:name`.
        pointwise: Whether it scores each row's own item alone; otherwise all candidates of the step. See
            `trainer.fitting.step.make_loss` for the arguments of either kind.
        needs_values: Whether it fits the value (rating) of each interaction.
        binary_values: Whether values become 0 or 1 by `loss.positive_value` first.
        user_rows: Whether a row may be a user with all positives; otherwise a row is one interaction.
        gathers_rows: Whether each rank scores its candidates for the rows of all ranks; otherwise it scores
            its rows with the candidates of all ranks.
        serves_history: Whether a query vector can be fitted to a history of items without values.
        serves_ordered: Whether rows may be positions of ordered histories.
        tunable: Whether the temperature and the closed form can be chosen on a validation split.
    """

    function: str
    pointwise: bool = False
    needs_values: bool = False
    binary_values: bool = False
    user_rows: bool = False
    gathers_rows: bool = False
    serves_history: bool = False
    serves_ordered: bool = False
    tunable: bool = False


LOSSES: dict[str, LossSpec] = {
    "softmax": LossSpec(
        "trainer.model.losses:multi_positive_softmax",
        user_rows=True,
        # A step mostly has fewer rows than candidates, so that fewer vectors and gradients are exchanged.
        gathers_rows=True,
        serves_history=True,
        serves_ordered=True,
        tunable=True,
    ),
    "bpr": LossSpec("trainer.model.losses:bayesian_personalised_ranking", serves_history=True),
    "mse": LossSpec("trainer.model.losses:mean_squared_error", pointwise=True, needs_values=True),
    "bce": LossSpec(
        "trainer.model.losses:binary_cross_entropy", pointwise=True, needs_values=True, binary_values=True
    ),
}


def loss_spec(name: str) -> LossSpec:
    """Return the facts about a loss.

    Raises:
        ConfigError: If there is no loss of that name.
    """
    if name not in LOSSES:
        raise ConfigError(f"loss.name is {name!r}, expected one of {', '.join(LOSSES)}")
    return LOSSES[name]


def losses_where(fact: Callable[[LossSpec], bool]) -> str:
    """Return the names of the losses for which a fact holds, as text: `softmax or bpr`."""
    return " or ".join(name for name, spec in LOSSES.items() if fact(spec))
