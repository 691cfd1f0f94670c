"""Stopping on request: signals that some ranks receive let all of them stop after the same step."""

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
    """Turns SIGTERM or SIGINT into a request to stop; a second, later one has its usual effect."""

    def __init__(self, world: World, active: bool = True) -> None:
        """Prepare for signals; called by every rank alike.

        Args:
            world: All ranks.
            active: Whether signals are requests; otherwise they keep their usual effect.
        """
        self._world, self._active = world, active
        self._requested_at: float | None = None
        self._requested_by = signal.SIGTERM
        self._handlers: dict[int, Any] = {}
        # The exchange runs beside those of the next step, so that it needs a group of its own.
        self._group = world.new_group() if active and world.size > 1 else None
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._exchange: dist.Work | None = None

    def __enter__(self) -> "Preemption":
        if self._active and threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore_handlers()
        if self._exchange is not None and error is None:
            self._exchange.wait()
        if isinstance(error, RuntimeError) and self._requested_at is not None:
            # Not a requested stop: a launcher also sends SIGTERM to ranks whose peer has died.
            signal.raise_signal(self._requested_by)

    def stop_requested(self) -> bool:
        """Return whether some rank had been asked to stop by the end of the step before; once a step.

        All ranks return the same. The exchange runs beside the next step, which does not wait for it.
        """
        if not self._active:
            return False
        if self._group is None:
            return self._requested_at is not None
        if self._exchange is not None:
            self._exchange.wait()
        stop_requested = bool(self._flag)
        self._flag = torch.tensor([self._requested_at is not None], dtype=torch.int32)
        self._exchange = dist.all_reduce(self._flag, group=self._group, async_op=True)
        return stop_requested

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._requested_at is None:
            self._requested_at, self._requested_by = now, signal.Signals(number)
        elif now - self._requested_at > ONE_REQUEST_SECONDS:
            self._restore_handlers()
            signal.raise_signal(number)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
