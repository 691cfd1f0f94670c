"""The hosts of a training, and what one process of each exchanges with the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist

from trainer.distributed.world import LONG_WORK, World, set_timeout
from trainer.errors import UserError

Value = TypeVar("Value")
BLOCK = 2**22
"""Values that travel at once."""


@dataclass(frozen=True)
class Hosts:
    """The first ranks of all hosts; each acts for its host.

    Attributes:
        world: All ranks.
        first_ranks: First rank of each host, ascending.
        group: Process group of these ranks; None: there is one host.
    """

    world: World
    first_ranks: Sequence[int] = (0,)
    group: Any = None

    @classmethod
    def of(cls, world: World) -> "Hosts":
        """Return the hosts of a world; called by every rank alike."""
        local_ranks: list[Any] = [None] * world.size
        dist.all_gather_object(local_ranks, world.local_rank, group=world.objects)
        firsts = [rank for rank, local in enumerate(local_ranks) if local == 0]
        if len(firsts) == 1:
            return cls(world)
        group: Any = dist.new_group(firsts, backend="gloo", timeout=world.timeout)
        if world.local_rank == 0:
            set_timeout(LONG_WORK, group)
        return cls(world, firsts, group)

    def __len__(self) -> int:
        return len(self.first_ranks)

    @property
    def place(self) -> int:
        """Number of this host."""
        return self.first_ranks.index(self.world.rank - self.world.local_rank)

    def shares_of(self, host: int, shares: int) -> range:
        """Return the shares of a host's ranks, of as many as there are ranks, or another number."""
        bounds = [*self.first_ranks, self.world.size]
        first, last = (shares * rank // self.world.size for rank in bounds[host : host + 2])
        return range(first, last)

    def exchange(self, value: Value) -> list[Value]:
        """Return the values of all hosts, in their order; called by each host's first rank alike.

        Raises:
            UserError: That of a host whose `work` has failed, see `run`.
        """
        return self._gathered(value, None)

    def sum(self, counts: np.ndarray) -> np.ndarray:
        """Return the sum of whole numbers over all hosts, as int64."""
        return np.sum(self.exchange(np.asarray(counts, np.int64)), axis=0)

    def sums(self, counts: dict[str, int]) -> dict[str, int]:
        """Return the sum of each count over all hosts."""
        return dict(zip(counts, self.sum(np.array([*counts.values()], np.int64)).tolist(), strict=True))

    def in_blocks(self, own: Any) -> Iterator[Any]:
        """Yield the values of all hosts in their order, a block at a time, as every host sees them.

        A failing host is heard of in every block. Hosts that do not need the values take them too.

        Args:
            own: This host's values, an array of numpy or Arrow.
        """
        for host, size in enumerate(self.exchange(len(own))):
            for start in range(0, size, BLOCK):
                block = own[start : start + BLOCK] if host == self.place else None
                yield self.exchange(block)[host]

    def run(self, work: Callable[[], Value]) -> Value:
        """Return the result of work in which hosts exchange what they find, done by one rank of each.

        A host that fails says so in the exchange for which the others wait.

        Raises:
            UserError: On every rank, with the message of the first host where `work` raised one.
        """
        return self.world.on_each_host(lambda: self._work(work), long=True)

    def _work(self, work: Callable[[], Value]) -> Value:
        try:
            result = work()
        except _ElsewhereError as error:
            raise error.cause from None
        except UserError as error:
            if self.group is not None:
                self._outcomes(None, error)
            raise
        try:
            self.exchange(None)  # nobody may go on where another fails in the end
        except _ElsewhereError as error:
            raise error.cause from None
        return result

    def _gathered(self, value: Value, failure: UserError | None) -> list[Value]:
        if self.group is None:
            return [value]
        outcomes = self._outcomes(value, failure)
        for _, error in outcomes:
            if error is not None:
                raise _ElsewhereError(error)
        return [found for found, _ in outcomes]

    def _outcomes(self, value: Any, failure: UserError | None) -> list[Any]:
        outcomes: list[Any] = [None] * len(self)
        dist.all_gather_object(outcomes, (value, failure), group=self.group)
        return outcomes


class _ElsewhereError(Exception):
    """Another host has failed, and knows already that all hear of it."""

    def __init__(self, cause: UserError) -> None:
        super().__init__(str(cause))
        self.cause = cause
