"""Processes that try what may crash or hang, so that this is a finding and not the end of `doctor`."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trainer

LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells its ranks, which does not hold for processes that are tried here."""


class Trial:
    """A module that runs as a process and prints lines of JSON.

    Use it as a context: at its end the process has ended too.
    """

    def __init__(self, module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        """Start it.

        Args:
            module: Its full name.
            arguments: Its arguments.
            environment: Variables that it has besides those of this process.
        """
        inherited = {name: value for name, value in os.environ.items() if name not in LAUNCH_VARIABLES}
        # The process finds this package last of all, as other libraries may lie in the same folder.
        paths = [os.environ.get("PYTHONPATH", ""), str(Path(trainer.__file__).parents[1])]
        inherited |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
        self._silent: float | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=inherited | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def __enter__(self) -> "Trial":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def lines(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield what it prints; end when it has ended, or has been silent for a time.

        Args:
            seconds: How long it may be silent.
        """
        assert self._process.stdout is not None
        handle, rest = self._process.stdout.fileno(), b""
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while selector.select(seconds):
                more = os.read(handle, 65536)
                if not more:
                    self._wait(5)
                    return
                *whole, rest = (rest + more).split(b"\n")
                for line in whole:
                    if line.startswith(b"{"):  # libraries may print lines of their own
                        yield json.loads(line)
        self._process.kill()
        self._process.wait()
        self._silent = seconds

    def _wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._silent = seconds

    def fault(self) -> str | None:
        """Return how it has ended, in words; None: as it should."""
        if self._silent is not None:
            return f"no answer within {self._silent:.0f} s"
        code = self._process.poll()
        if code is None or code == 0:
            return None
        if code < 0:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        return self._last_line() or f"exit code {code}"

    def _last_line(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        return re.sub(r"^(\w+\.)+(?=\w+: )", "", last)  # an exception without its module


def answers(trials: list[Trial], seconds: float) -> tuple[list[dict[str, Any] | None], list[str | None]]:
    """Return the last line and the fault of each trial, all of which run at the same time.

    Args:
        trials: Processes that need each other.
        seconds: How long they may take together.
    """
    deadline, last, faults = time.monotonic() + seconds, [], []
    for trial in trials:
        lines = list(trial.lines(max(deadline - time.monotonic(), 1)))
        last.append(lines[-1] if lines else None)
        faults.append(trial.fault())
    return last, faults
