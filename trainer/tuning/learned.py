"""Trials of temperatures: short trainings of the learned towers alone."""

import math
from dataclasses import replace

from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config
from trainer.config.size_defaults import (
    FULL_EPOCHS,
    fixed_temperature,
    temperature_is_open,
    with_fixed_values,
)
from trainer.distributed.preemption import Preemption
from trainer.evaluation.evaluator import gathered_vectors
from trainer.facts.histories import history_spec
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.loop import fit
from trainer.fitting.score_memory import check_scores_fit
from trainer.tuning.trials import Vectors, climb
from trainer.tuning.validation_splits import Bench, Cut

TEMPERATURE_RATIO = math.sqrt(2)
"""Ratio of one temperature to the next."""
TRIAL_SHARE, TRIAL_STEPS = 4, 160
"""A trial takes a quarter of the epochs, but at least so many steps: enough to order temperatures."""
TRIAL_SAMPLES = 1024
"""Most sampled candidates of a trial whose steps have the positives of many users as candidates anyway."""


class LearnedTrials:
    """Trials of one kind of history, on the first validation split.

    Attributes:
        config: Filled by the size of the data.
        scores: Figure by temperature.
        best: The temperature of the highest figure so far.
    """

    def __init__(self, config: Config, bench: Bench) -> None:
        """Begin without a trial; called by every rank alike."""
        self.config, self._bench = config, bench
        self._fixed = with_fixed_values(config)
        self.scores: dict[float, float] = {}
        self.best = self._fixed.model.temperature

    @property
    def figure(self) -> float:
        """The highest figure so far; -1 before the first trial."""
        return self.scores.get(self.best, -1.0)

    def first(self) -> float:
        """Return the figure of the temperature that is tried first."""
        return self.score(self.best)

    def climb(self) -> dict[float, float]:
        """Try temperatures up to the best one, if they are open; return the figures of those tried."""
        if temperature_is_open(self.config):
            return climb(self.score, fixed_temperature(self.config), TEMPERATURE_RATIO)
        self.first()
        return {}

    def score(self, temperature: float) -> float:
        """Return the figure of a temperature; each is tried once."""
        trials, first = self._bench.trials, self._bench.cuts[0]

        def measure() -> float:
            vectors = self._trial(temperature, first)
            figure = self._bench.world.on_first(lambda: first.figure(on_first(vectors)), long=True)
            if figure > self.figure:
                trials.hold(self._name(temperature), vectors)
            return figure

        if temperature not in self.scores:
            figure = trials.figure(self._name(temperature), measure)
            if figure > self.figure:
                if self.best != temperature:
                    trials.release(self._name(self.best))
                self.best = temperature
            self.scores[temperature] = figure
        return self.scores[temperature]

    def vectors(self) -> list[Vectors | None]:
        """Return the vectors of the best temperature for each validation split, on rank 0."""
        first, *others = self._bench.cuts
        trials, name = self._bench.trials, self._name(self.best)
        found = [trials.vectors(name, lambda: self._trial(self.best, first))]
        for number, cut in enumerate(others, start=2):
            further = f"{name}, validation split {number}"
            found.append(trials.further(further, lambda cut=cut: self._trial(self.best, cut)))
        return found

    def forget(self) -> None:
        """Drop the vectors of a kind of history that is tuned no further."""
        self._bench.trials.release(self._name(self.best))

    def _name(self, temperature: float) -> str:
        return label(self.config, f"temperature {temperature!r}")

    def _trial(self, temperature: float, cut: Cut) -> Vectors | None:
        model = replace(self._fixed.model, temperature=temperature, low_rank=0)
        return _trial(replace(self._fixed, model=model), cut, self._bench)


def label(config: Config, trial: str) -> str:
    """Return the name of a trial, with the kind of history where it has an order."""
    history = config.model.history
    return f"{history} {trial}" if history_spec(history).ordered else trial


def _trial(config: ResolvedConfig, cut: Cut, bench: Bench) -> Vectors | None:
    """Return vectors after a short training of the learned towers alone, on rank 0.

    Raises:
        KeyboardInterrupt: Some rank was asked to stop; raised on every rank. The trial is not kept.
    """
    # A signal must not end one rank in the middle of what it does together with others.
    with Preemption(bench.world) as preemption:
        stopped, vectors = _short_training(config, cut, bench)
        # Of two exchanges, the second has what was asked before the first.
        if stopped or preemption.stop_requested() or preemption.stop_requested():
            raise KeyboardInterrupt
    return vectors


def _short_training(config: ResolvedConfig, cut: Cut, bench: Bench) -> tuple[bool, Vectors | None]:
    """Return whether the training was stopped, and the vectors after it, on rank 0."""
    sharding = replace(config.sharding, plan=None)  # a plan file has closed-form tables too
    config, world = replace(config, sharding=sharding), bench.world
    if config.batches.rows == "user" and config.loss.candidates == "sampled":
        samples = min(config.loss.samples or TRIAL_SAMPLES, TRIAL_SAMPLES)
        config = replace(config, loss=replace(config.loss, samples=samples))
    components = assemble(config, cut.dataset, world)
    batches = make_batches(config, cut.dataset, components)
    check_scores_fit(batches, world)
    full = config.run.epochs
    least = -(-min(full, FULL_EPOCHS) // TRIAL_SHARE)
    epochs = min(full, max(least, -(-TRIAL_STEPS // batches.steps_per_epoch)))
    run = replace(config.run, epochs=epochs, evaluate_every=0, patience=0, log_every=0)
    with bench.trials.bar(epochs * batches.steps_per_epoch) as progress:
        config = replace(config, run=run)
        history, _ = fit(config, cut.dataset, components, batches, world, progress, stoppable=True)
    if history.paused_at is not None:
        return True, None
    pairs, count = components.tower_pairs, cut.dataset.item_count
    return False, gathered_vectors(pairs, cut.users, count, world, bench.protocol, cut.dataset)


def on_first(vectors: Vectors | None) -> Vectors:
    """Return vectors on rank 0, which has those of all ranks."""
    assert vectors is not None, "rank 0 has the vectors of all ranks"
    return vectors
