"""Recognises that another rank has ended or hangs, from errors of gloo, NCCL and the store."""

import os
import re

import torch.distributed as dist

from trainer.errors import LostRanksError

NCCL_SETTINGS = {
    # 2 is CleanUpOnly: the watchdog aborts a collective that has timed out, so that the GPU goes on, and the
    # next collective raises an error that tells why. What was computed in between is incomplete, and is never
    # saved: the check for finite weights before each checkpoint is such a collective. The default, 3, ends
    # the process by SIGABRT with a C++ trace. TORCH_NCCL_BLOCKING_WAIT would raise the error right away, but
    # makes the host wait for each collective.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",
    # Before it aborts, the watchdog waits four times as long for a dump to be written: by default, a minute.
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "250",
}
"""Environment variables that torch 2.13 reads when it makes an NCCL group (`ProcessGroupNCCL.hpp`)."""

GLOO = (
    (r"gloo/transport/[^]]*\] (.*)", r"\1"),  # timed out, closed or reset by peer, broken pipe, refused
    (r"Application timeout caused pair closure", r"\g<0>"),  # beside another operation that has timed out
)
NCCL = (
    (r"retrieving ncclUniqueId from \[(\d+)\].* (?:got error|failed)", r"rank \1 has not sent its NCCL id"),
    (r"(Watchdog caught collective operation timeout): WorkNCCL\(SeqNum=(\d+), OpType=(\w+)", r"\1: \3 \2"),
    (r"WorkNCCL\(SeqNum=(\d+), OpType=(\w+).*timed out in blocking wait", r"\2 \1 timed out"),
    (r"Connection (?:closed by remote peer|reset by peer|refused).*", r"\g<0>"),
    (r"Broken pipe", r"\g<0>"),
    (r"remote process exited or there was a network error", r"\g<0>"),
    (r"NCCL communicator was aborted", r"\g<0>"),
)
STORE = ((r"^(?!.*server socket has failed)(?:\[[^]]*\] )?(.*)", r"\1"),)  # all but a port that is in use
KINDS = ((dist.DistBackendError, NCCL), (dist.DistError, STORE), (RuntimeError, GLOO))
"""By type of error (NCCL; store and network; gloo): patterns of messages that mean a lost rank, and the text
to show for each. Other errors of these types are faults of this rank."""

SILENCE = re.compile("timed out|timeout|has not sent", re.IGNORECASE)
MOST_CHARACTERS = 120


def set_up_nccl() -> None:
    """Have NCCL raise an error where a collective times out; to be called before its first group is made."""
    for name, value in NCCL_SETTINGS.items():
        os.environ.setdefault(name, value)


def lost_reason(error: BaseException) -> str | None:
    """Return what an error tells about a rank that has ended or is silent; None for other errors."""
    patterns = next((patterns for kind, patterns in KINDS if isinstance(error, kind)), ())
    for pattern, reason in patterns:
        if found := re.search(pattern, str(error)):
            sentence = found.expand(reason).partition(". ")[0]
            return sentence[:MOST_CHARACTERS] or type(error).__name__
    return None


def lost_ranks_error(rank: int, error: BaseException) -> LostRanksError | None:
    """Return the error to raise if `error` means that `rank` has lost the other ranks, or None."""
    reason = lost_reason(error)
    if reason is None:
        return None
    return LostRanksError(
        f"rank {rank} has lost the others ({reason})", silent=SILENCE.search(reason) is not None
    )
