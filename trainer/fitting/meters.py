"""Records of training steps: loss, speed and validation figures; checks that they are finite."""

import math

import torch
from torch import nn

from trainer.batching.batch import Batch
from trainer.distributed.world import World
from trainer.errors import diverged
from trainer.reporting.progress import Progress, resident_mebibytes
from trainer.runs.validation_history import Stopwatch, ValidationHistory
from trainer.sharding.model_state import local_shards, table_name, whole_state
from trainer.sharding.private_api import ShardedTensor

NEVER = 2**62


class Meter:
    """Loss and speed of the steps since the last record.

    Attributes:
        step: The last step.
        rows: Rows of these steps, over all ranks.
        interactions: Interactions of these steps, over all ranks.
    """

    def __init__(self, world: World, watch: Stopwatch) -> None:
        """Start at zero."""
        self._world, self._watch, self.step = world, watch, 0
        self._never = torch.tensor(NEVER, device=world.device)
        self._reset()

    def add(self, step: int, loss: torch.Tensor, batch: Batch) -> None:
        """Add a step, with the sum of this rank's weighted row losses."""
        self._loss += loss
        # On the device, so that no step waits for it.
        self._first_bad = torch.where(loss.isfinite(), self._first_bad, self._first_bad.clamp(max=step))
        self.step = step
        self.rows += batch.rows
        self.interactions += batch.interactions

    def read(self) -> tuple[float, float]:
        """Return the mean loss of a row over all ranks and the interactions per second, and reset both."""
        loss = float(self._world.sum(self._loss)) / self.rows
        speed = self.interactions / (self._watch.seconds - self._since)
        self._reset()
        return loss, speed

    def first_bad_step(self) -> int | None:
        """Return the first step since the last record with a NaN or infinite loss on some rank, or None."""
        step = int(self._world.smallest(self._first_bad))
        return None if step == NEVER else step

    def _reset(self) -> None:
        self._loss = torch.zeros((), device=self._world.device)
        self._first_bad = self._never
        self.rows, self.interactions, self._since = 0, 0, self._watch.seconds


def check_finite(
    meter: Meter, history: ValidationHistory, model: nn.Module, world: World, weights: bool = False
) -> None:
    """Refuse to continue with a loss or weights that are NaN or infinite.

    Args:
        meter: Losses since the last record.
        history: Of the training.
        model: Sharded model, on every rank alike.
        world: All ranks.
        weights: Check all weights even if every loss was finite.

    Raises:
        DivergedError: The message names the step, its batch and the tables; raised on every rank.
    """
    bad = meter.first_bad_step()
    if bad is None and not weights:
        return
    tables = _not_finite(model, world)
    if bad is None and not tables:
        return
    step = bad or meter.step
    faults = [] if bad is None else ["the loss is NaN or infinite"]
    if tables:
        faults.append(f"weights of {', '.join(tables)} are NaN or infinite")
    epoch, batch = divmod(step - 1, history.epoch_steps)
    raise diverged(f"step {step} (epoch {epoch + 1}, batch {batch + 1})", " and ".join(faults))


def _not_finite(model: nn.Module, world: World) -> list[str]:
    """Return the tables, or other parameters, that hold NaN or infinite weights on some rank."""
    state = {key: value for key, value in whole_state(model).items() if _holds_floats(value)}
    bad = torch.zeros(len(state), device=world.device)
    for place, value in enumerate(state.values()):
        for tensor, _, _ in local_shards(value):
            if tensor.numel():
                low, high = torch.aminmax(tensor.detach())  # passes NaN on, and copies no table
                bad[place] += float(not (math.isfinite(low) and math.isfinite(high)))
    found = zip(state, world.sum(bad).tolist(), strict=True)
    return sorted({table_name(key) or key for key, count in found if count})


def _holds_floats(value: object) -> bool:
    """Return whether an entry of a state is a tensor of numbers that can be infinite."""
    return isinstance(value, ShardedTensor) or (isinstance(value, torch.Tensor) and value.is_floating_point())


def log(progress: Progress, history: ValidationHistory, meter: Meter, rate: float) -> None:
    """Record the mean loss since the last record.

    Args:
        progress: Where records go.
        history: Of the training.
        meter: Losses since the last record.
        rate: Learning rate of the tables in the last step.
    """
    loss, speed = meter.read()
    step, epoch, memory = meter.step, history.epoch(meter.step), resident_mebibytes()
    progress.record(
        step,
        f"epoch {epoch:g}  step {step}  loss {loss:.4f}  {speed:,.0f} examples/s  lr {rate:.2g}  "
        f"{memory:,.0f} MiB",
        epoch=epoch,
        loss=loss,
        examples_per_second=speed,
        learning_rate=rate,
        memory_mib=memory,
    )


def log_validation(progress: Progress, history: ValidationHistory, figures: dict[str, float]) -> None:
    """Record the figures of the last validation, and the seconds trained before it."""
    last = history.validations[-1]
    progress.record(
        last.step,
        "validation  " + "  ".join(f"{metric} {value:.4f}" for metric, value in figures.items()),
        epoch=history.epoch(last.step),
        training_seconds=last.seconds,
        **{f"validation/{metric}": value for metric, value in figures.items()},
    )
