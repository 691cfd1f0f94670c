"""Contenders that take turns: a machine that slows down for minutes slows all of them.

Each is a process of its own, or several ranks, with a pipe through which it is told to go and tells how fast
it was; while another has its turn it waits.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from statistics import median
from typing import TypeAlias

Rounds: TypeAlias = dict[str, list[float]]
"""By contender, a figure of each round."""


@dataclass(frozen=True)
class Contender:
    """Ranks that wait for their turn.

    Attributes:
        ranks: processes.
        run: starts them with a pipe each, and returns when they have ended; `answer` is what they do.
    """

    ranks: int
    run: Callable[[list[Connection]], object]


def answer(pipe: Connection, turn: Callable[[], float]) -> None:
    """Say that all is set up, then take a turn whenever told to, until told to end."""
    pipe.send(0.0)
    while pipe.recv():
        pipe.send(turn())


def in_turns(contenders: Mapping[str, Contender], rounds: int) -> Rounds:
    """The figures of the first rank of each, in rounds in which everybody has one turn.

    A round before them, which does not count, warms up.
    Raises: what a contender raised.
    """
    found: Rounds = {name: [] for name in contenders}
    with _started(contenders) as started:
        for number in range(rounds + 1):
            for name, (pipes, running) in started.items():
                for pipe in pipes:
                    pipe.send(True)
                figure, *_ = [_received(pipe, running) for pipe in pipes]
                found[name] += [figure] if number else []
    return found


def ratio(rounds: Rounds, ours: list[str], theirs: list[str]) -> float:
    """The best of ours, by medians, over the best of theirs: the median over rounds, each by itself."""
    best = [max(names, key=lambda name: median(rounds[name])) for names in (ours, theirs)]
    return median(own / other for own, other in zip(*(rounds[name] for name in best), strict=True))


@contextmanager
def _started(
    contenders: Mapping[str, Contender],
) -> Iterator[dict[str, tuple[list[Connection], "Future[object]"]]]:
    with ThreadPoolExecutor(len(contenders)) as threads:
        started = {}
        try:
            for name, contender in contenders.items():
                pipes = [Pipe() for _ in range(contender.ranks)]
                running = threads.submit(contender.run, [theirs for _, theirs in pipes])
                started[name] = [ours for ours, _ in pipes], running
                for ours, _ in pipes:
                    _received(ours, running)  # that it is set up, before the next one starts
            yield started
        finally:
            for pipes, running in started.values():
                for pipe in pipes:
                    if not running.done():
                        pipe.send(False)


def _received(pipe: Connection, running: "Future[object]") -> float:
    while not pipe.poll(1):
        if running.done():
            running.result()
            raise RuntimeError("ended before its turn")
    return pipe.recv()
