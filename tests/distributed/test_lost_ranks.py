"""Texts of errors that tell of lost ranks, as the libraries write them, and of others that do not."""

import os
from unittest import mock

import pytest
import torch.distributed as dist

from trainer.distributed.lost_ranks import NCCL_SETTINGS, lost_ranks_error, lost_reason, set_up_nccl

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"
WORK = "WorkNCCL(SeqNum=42, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=5000)"
IN_NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, "
SILENT, ENDED = True, False


@pytest.mark.parametrize(
    ("error", "reason", "silent"),
    [
        (
            RuntimeError(
                f"{GLOO}unbound_buffer.cc:78] Timed out waiting 5000ms for recv operation to complete"
            ),
            "Timed out waiting 5000ms for recv operation to complete",
            SILENT,
        ),
        (
            RuntimeError("Application timeout caused pair closure"),
            "Application timeout caused pair closure",
            SILENT,
        ),
        (
            RuntimeError(f"{GLOO}pair.cc:553] Connection closed by peer [127.0.0.1]:36152. This is typical"),
            "Connection closed by peer [127.0.0.1]:36152",
            ENDED,
        ),
        (
            RuntimeError(f"{GLOO}pair.cc:547] Read error [::1]:36152: Connection reset by peer"),
            "Read error [::1]:36152: Connection reset by peer",
            ENDED,
        ),
        (
            RuntimeError(
                f"Gloo connectFullMesh failed with {GLOO}pair.cc:144] timed out connecting: SO_ERROR"
            ),
            "timed out connecting: SO_ERROR",
            SILENT,
        ),
        (
            dist.DistNetworkError("[shared memory] rank 3: timed out"),
            "rank 3: timed out",
            SILENT,
        ),
        (
            dist.DistStoreError("wait timeout after 5000ms, keys: /start-0/0/0/1"),
            "wait timeout after 5000ms, keys: /start-0/0/0/1",
            SILENT,
        ),
        (
            dist.DistNetworkError("failed to recv, got 0 bytes"),
            "failed to recv, got 0 bytes",
            ENDED,
        ),
        (
            dist.DistBackendError(
                f"[Rank 0] Watchdog caught collective operation timeout: {WORK} ran for 5001 milliseconds"
            ),
            "Watchdog caught collective operation timeout: ALLREDUCE 42",
            SILENT,
        ),
        (
            dist.DistBackendError(
                "NCCL communicator was aborted on rank 0.  Original reason for failure was: [Rank 0] "
                f"Watchdog caught collective operation timeout: {WORK} ran for 5001 milliseconds"
            ),
            "Watchdog caught collective operation timeout: ALLREDUCE 42",
            SILENT,
        ),
        (
            dist.DistBackendError("NCCL communicator was aborted on rank 0. "),
            "NCCL communicator was aborted",
            ENDED,
        ),
        (
            dist.DistBackendError(
                f"{IN_NCCL}remote process exited or there was a network error, NCCL version 2.29.7\n"
                "ncclRemoteError: A call failed possibly due to a network error or a remote process\n"
                "Last error:\nsocketProgress: Connection closed by remote peer node-3<41234>"
            ),
            "Connection closed by remote peer node-3<41234>",
            ENDED,
        ),
        (
            dist.DistBackendError(
                "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value "
                "store by key '0', but store->get('0') got error: wait timeout after 5000ms"
            ),
            "rank 0 has not sent its NCCL id",
            SILENT,
        ),
    ],
)
def test_an_error_that_tells_of_lost_ranks_is_recognised(error: Exception, reason: str, silent: bool) -> None:
    assert lost_reason(error) == reason
    lost = lost_ranks_error(1, error)
    assert lost is not None
    assert str(lost) == f"rank 1 has lost the others ({reason})"
    assert lost.silent is silent


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        KeyError("gloo/transport/] timed out"),
        dist.DistNetworkError(
            "The server socket has failed to listen on any local network address. port: 29500"
        ),
        dist.DistBackendError(f"{IN_NCCL}invalid usage (run with NCCL_DEBUG=WARN for details)"),
        dist.DistBackendError(f"{IN_NCCL}unhandled cuda error\nLast error:\nDuplicate GPU detected"),
    ],
    ids=str,
)
def test_a_fault_of_this_rank_is_none_of_them(error: Exception) -> None:
    assert lost_reason(error) is None
    assert lost_ranks_error(1, error) is None


def test_settings_of_nccl_that_are_made_already_stay() -> None:
    with mock.patch.dict(os.environ, {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}, clear=True):
        set_up_nccl()
        assert {name: os.environ[name] for name in NCCL_SETTINGS} == NCCL_SETTINGS | {
            "TORCH_NCCL_DUMP_ON_TIMEOUT": "1"
        }
