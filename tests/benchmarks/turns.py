"""Contenders that take turns: a machine that slows down for minutes slows all of them.

Each is a process of its own, or several ranks, with a pipe through which it is told to go and tells how fast
it was; while another has its turn it waits.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from statistics import median
from typing import TypeAlias

TURN_SECONDS, FEW = 1.5, 8
"""Of a turn; the least steps that it has."""

Rounds: TypeAlias = dict[str, list[float]]
"""By contender, examples/s in each round."""


@dataclass(frozen=True)
class Contender:
    """Ranks that wait for their turn.

    Attributes:
        ranks: processes.
        run: starts them with a pipe each, and returns when they have ended; `answer` is what they do.
    """

    ranks: int
    run: Callable[[list[Connection]], object]


def answer(pipe: Connection, step: Callable[[], object], examples: float) -> None:
    """Say how many examples a step has; then take as many steps as told, until 0, and say their seconds."""
    pipe.send(examples)
    while count := pipe.recv():
        started = time.perf_counter()
        for _ in range(count):
            step()
        pipe.send(time.perf_counter() - started)


def in_turns(contenders: Mapping[str, Contender], rounds: int) -> Rounds:
    """Examples/s of each, in rounds in which everybody has one turn of about `TURN_SECONDS`.

    Two turns of a few steps come first: one warms up, one tells how many steps a turn has.
    Raises: what a contender raised.
    """
    found: Rounds = {name: [] for name in contenders}
    with _started(contenders) as started:
        steps = {}
        for name, contender in started.items():
            contender.turn(FEW)
            steps[name] = max(FEW, round(TURN_SECONDS * FEW / contender.turn(FEW)))
        for name in [*started] * rounds:
            seconds = started[name].turn(steps[name])
            found[name].append(steps[name] * started[name].examples / seconds)
    return found


def ratio(rounds: Rounds, ours: list[str], theirs: list[str]) -> float:
    """The best of ours, by medians, over the best of theirs: the median over rounds, each by itself."""
    best = [max(names, key=lambda name: median(rounds[name])) for names in (ours, theirs)]
    return median(own / other for own, other in zip(*(rounds[name] for name in best), strict=True))


@dataclass(frozen=True)
class _Started:
    """A contender that is set up."""

    pipes: list[Connection]
    running: "Future[object]"
    examples: float

    def turn(self, steps: int) -> float:
        """Seconds of so many steps, on the rank that took longest."""
        for pipe in self.pipes:
            pipe.send(steps)
        return max(_received(pipe, self.running) for pipe in self.pipes)


@contextmanager
def _started(contenders: Mapping[str, Contender]) -> Iterator[dict[str, _Started]]:
    with ThreadPoolExecutor(len(contenders)) as threads:
        started, running = {}, []
        try:
            for name, contender in contenders.items():
                pipes = [Pipe() for _ in range(contender.ranks)]
                running.append(threads.submit(contender.run, [theirs for _, theirs in pipes]))
                # It is set up before the next one starts.
                examples = [_received(ours, running[-1]) for ours, _ in pipes]
                started[name] = _Started([ours for ours, _ in pipes], running[-1], examples[0])
            yield started
        finally:
            for contender in started.values():
                for pipe in contender.pipes:
                    if not contender.running.done():
                        pipe.send(0)


def _received(pipe: Connection, running: "Future[object]") -> float:
    while not pipe.poll(1):
        if running.done():
            running.result()
            raise RuntimeError("ended before its turn")
    return pipe.recv()
