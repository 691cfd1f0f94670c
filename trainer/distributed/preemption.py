"""A pause that is asked for by signals: heard by some ranks, taken by all of them after the same step."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from trainer.distributed.world import World

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ONE_REQUEST_SECONDS = 1.0
"""Signals this close together are one request: a terminal and a launcher send one each."""


class Preemption:
    """Whether SIGTERM or SIGINT asks for a pause; a second request, later, acts as it would without us."""

    def __init__(self, world: World, active: bool = True) -> None:
        """Made on every rank alike.

        Args: active: whether signals are heard; otherwise no pause is ever taken.
        """
        self._world, self._active = world, active
        self._asked_at: float | None = None
        self._asked_by = signal.SIGTERM
        self._before: dict[int, Any] = {}
        self._flag, self._exchange = torch.zeros(1, dtype=torch.int32), None

    def __enter__(self) -> "Preemption":
        if self._active and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self._exchange is not None and error is None:
            self._exchange.wait()
        if isinstance(error, RuntimeError) and self._asked_at is not None:
            # There will be no pause: a launcher sends SIGTERM to ranks whose peer has died, too.
            signal.raise_signal(self._asked_by)

    def stop_requested(self) -> bool:
        """Whether some rank had been asked by the end of the step before, on all ranks; once a step.

        The exchange that tells the others runs beside the next step, so that no step waits for it.
        """
        if not self._active:
            return False
        if self._world.size == 1:
            return self._asked_at is not None
        if self._exchange is not None:
            self._exchange.wait()
        stop_requested = bool(self._flag)
        self._flag = torch.tensor([self._asked_at is not None], dtype=torch.int32)
        self._exchange = dist.all_reduce(self._flag, group=self._world.objects, async_op=True)
        return stop_requested

    def _hear(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at, self._asked_by = now, signal.Signals(number)
        elif now - self._asked_at > ONE_REQUEST_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
