"""torchrun that ends as its ranks end: with their exit code, and without a traceback of its own.

SIGTERM and SIGINT are passed on to the ranks, which finish their step, save and end; a second one ends them
at once. Bare torchrun passes them on too, but ends with an error, and kills ranks that need more than 30 s.
"""

import logging
import os
import signal
import sys
from types import FrameType

import psutil
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def end_the_ranks(number: int, _: FrameType | None) -> None:
    """Pass a signal on, wait until the ranks have ended, and end as they did."""
    ranks = psutil.Process().children()
    for again in (signal.SIGTERM, signal.SIGINT):
        signal.signal(again, lambda number, _: pass_on(number, ranks))
    pass_on(number, ranks)
    gone, _alive = psutil.wait_procs(ranks)
    sys.exit(next((as_shells_say(rank.returncode) for rank in gone if rank.returncode), 0))


def pass_on(number: int, ranks: list[psutil.Process]) -> None:
    """Send a signal to the ranks that are still there."""
    for rank in ranks:
        if rank.is_running():
            rank.send_signal(number)


def as_shells_say(code: int) -> int:
    """Exit code of a process, of which Python says -15 where a signal 15 has ended it."""
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    # What the launcher logs of ranks that end or are ended; they have said themselves what was wrong.
    logging.disable(logging.CRITICAL)
    # Its ranks meet at a new address each time they are started again, on one host or on several.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_the_ranks)
    try:
        main(["--signals_to_handle", "SIGHUP,SIGQUIT", *sys.argv[1:]])
    except ChildFailedError as error:
        sys.exit(as_shells_say(error.get_first_failure()[1].exitcode))
    except SignalException as error:
        sys.exit(128 + error.sigval)
