"""torchrun that ends as its ranks end: with their exit code, and without a traceback of its own.

SIGTERM and SIGINT are passed on to the ranks, which finish their step, save and end; a second one ends them
at once. Bare torchrun passes them on too, but ends with an error, and kills ranks that need more than 30 s.

A rank that is killed cannot say so. The launcher says it, with the command that resumes the training.
"""

import json
import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent, WorkerState
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousTimeoutError,
)
from torch.distributed.run import determine_local_world_size, get_args_parser, main

MEANINGS = {
    signal.SIGKILL: "the system sends it when memory runs out",
    signal.SIGSEGV: "native code has used memory that is not its own, a fault of a library or a driver",
    signal.SIGBUS: "shared memory (/dev/shm) is full, or a file that was mapped into memory has shrunk",
    signal.SIGILL: "the processor lacks an instruction that a package was built for",
    signal.SIGFPE: "native code has divided by zero",
    signal.SIGABRT: "native code has given up, with its reason above",
    signal.SIGTERM: "a person or a batch system has sent it to this rank alone",
    signal.SIGXCPU: "the processor time that `ulimit -t` allows is used up",
}
"""What usually stands behind a signal that ends a process."""
NEVER_A_CONSEQUENCE = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that do not come of another rank's end."""
USER_AT_FAULT = 2
"""Exit code of a rank where the user's input is at fault."""
STOPPED_CODE = "SHARDTOWER_STOPPED_CODE"
"""Names the exit code of a training that was stopped, has saved, and is not over; by default it is 0."""
STOPPED_SECONDS = 15
"""How long hosts wait for each other in the end of a run that was stopped, or is still at its report."""
RESOLVE_SECONDS = 60
"""How long the name of the endpoint may take to be known: in Kubernetes, until its pod has started."""
OTHER_HOSTS_SECONDS = 3
"""How long a host whose ranks were refused stays for the others to see that theirs were as well."""
RUN_NOTE = "SHARDTOWER_RUN_NOTE"
"""Names the file in which a training tells its launcher its run folder."""


def end_the_ranks(number: int, _: FrameType | None) -> None:
    """Pass a signal on, wait until the ranks have ended, and end as they did."""
    ranks = psutil.Process().children()
    for again in (signal.SIGTERM, signal.SIGINT):
        signal.signal(again, lambda number, _: pass_on(number, ranks))
    pass_on(number, ranks)
    gone, _alive = psutil.wait_procs(ranks)
    sys.exit(next((as_shells_say(rank.returncode) for rank in gone if rank.returncode), code_of_stopped()))


def code_of_stopped() -> int:
    """Return the exit code where all ranks have ended well: 0, or another if the training is to go on later.

    Kubernetes starts a pod again only where its exit code is not 0.
    """
    code = os.environ.get(STOPPED_CODE)
    return int(code) if code and is_stopped() else 0


def is_stopped() -> bool:
    """Return whether the ranks have trained in a run that is not over."""
    note = Path(os.environ.get(RUN_NOTE, ""))
    return note.is_file() and not (Path(note.read_text()) / "metrics.json").exists()


def pass_on(number: int, ranks: list[psutil.Process]) -> None:
    """Send a signal to the ranks that are still there."""
    for rank in ranks:
        if rank.is_running():
            rank.send_signal(number)


def as_shells_say(code: int) -> int:
    """Exit code of a process, of which Python says -15 where a signal 15 has ended it."""
    return 128 - code if code < 0 else code


def first_failure(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return the rank that made the others fail, and its failure.

    torchrun looks at its ranks now and then and notes full seconds. Of ranks that were seen to have failed at
    once, one that was killed comes first.
    """

    def order(rank: int) -> tuple[int, bool]:
        return failures[rank].timestamp, -failures[rank].exitcode not in NEVER_A_CONSEQUENCE

    rank = min(failures, key=order)
    return rank, failures[rank]


def killed_words(rank: int, number: int, what_next: str) -> str:
    """Return the line that says which signal ended a rank, what it means, and what to do."""
    names = {each.value: each.name for each in signal.Signals}
    name = f"signal {number} ({names[number]})" if number in names else f"signal {number}"
    parts = [f"rank {rank} was killed by {name}", MEANINGS.get(number, "")]
    return ". ".join(filter(None, [": ".join(filter(None, parts)), what_next]))


def next_words(note: Path, options: Sequence[str]) -> str:
    """Return how a training is resumed whose rank was killed; empty if it had no run folder yet, or was none.

    Args:
        note: File in which the training has told its run folder.
        options: What each rank was started with, command first.
    """
    if not note.exists():
        return ""
    run = Path(note.read_text())
    if (run / "metrics.json").exists():
        return f"The training was over; its run is {shlex.quote(str(run))}"
    choosing = (run / "tuning" / "trials.json").exists()  # finished trials are kept as well
    if not choosing and not any(is_resumable(each) for each in run.glob("checkpoints/*[0-9]")):
        return "Nothing was saved to go on from; --run.save_every 500 saves after every 500 steps"
    launcher = sys.orig_argv[: len(sys.orig_argv) - len(options)]
    return f"Go on with: {shlex.join([*launcher, 'train', '--run.dir', str(run)])}"


def is_resumable(checkpoint: Path) -> bool:
    """Return whether a checkpoint holds optimizer states; whether it is whole shows when it is opened."""
    try:
        return json.loads((checkpoint / "state.json").read_text())["resumable"]
    except (OSError, ValueError, KeyError):
        return False


NOT_MET = {
    RendezvousTimeoutError: "not all hosts have met in time. Start the same command on every host",
    RendezvousConnectionError: "nothing answers there, or no longer. Start the first host, and see that the "
    "others reach its port",
    RendezvousClosedError: "the other hosts have ended this training. Start it again on every host; in the "
    "same --run.dir it goes on",
}
"""What each failure of hosts to meet means, and what to do."""


def defaults(given: Namespace, address: str | None) -> list[str]:
    """Return options of torchrun that are better than its own defaults.

    By default a host goes by its own name; if that does not resolve, ranks wait for ever.
    """
    options = ["--signals_to_handle", "SIGHUP,SIGQUIT"]
    if given.local_addr is None and (given.standalone or given.nnodes in ("1", "1:1")):
        return [*options, "--local-addr", "localhost"]
    if given.local_addr is None and address is not None:
        options += ["--local-addr", address]
    return options


def with_host_of_store(arguments: list[str], given: Namespace, address: str | None) -> list[str]:
    """Return options that say whether the endpoint is this host's, which torchrun guesses by names alone."""
    if address is None or "is_host" in given.rdzv_conf:
        return arguments
    host, _, _ = given.rdzv_endpoint.rpartition(":")
    own = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
    is_host = not own.isdisjoint(addresses_of(host))
    conf = ",".join(filter(None, [given.rdzv_conf, f"is_host={int(is_host)}"]))
    place = len(arguments) - len(given.training_script_args) - 1 - given.module
    return [*arguments[:place], "--rdzv-conf", conf, *arguments[place:]]


def addresses_of(host: str) -> set[str]:
    """Return the addresses of a host; empty if its name does not resolve."""
    try:
        return {str(each[4][0]) for each in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return set()


def own_address(given: Namespace) -> str | None:
    """Return the address of this host on the way to the endpoint; None if hosts do not meet at one."""
    host, _, port = given.rdzv_endpoint.rpartition(":")
    if given.rdzv_backend != "c10d" or not host or not port.isdecimal():
        return None
    end = time.monotonic() + RESOLVE_SECONDS
    while not (addresses := addresses_of(host)) and time.monotonic() < end:
        time.sleep(1)
    for address in sorted(addresses):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, int(port)))  # sends nothing
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None


def interface_of(address: str) -> str | None:
    """Return the network interface that has an address."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, each in interfaces if address in {one.address for one in each}), None)


def set_environment(given: Namespace, note: Path, address: str | None) -> None:
    """Set what the ranks find in their environment, besides what torchrun puts there."""
    # Its ranks meet at a new address each time they are started again, on one host or on several.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ[RUN_NOTE] = str(note)
    if os.environ.get("TORCH_CPP_LOG_LEVEL") == "FATAL":  # for this process, see launch/multi_node.sh
        del os.environ["TORCH_CPP_LOG_LEVEL"]
    if address is not None and (interface := interface_of(address)):
        # By default gloo takes the interface of this host's name, or loopback where that does not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if not os.environ.get("OMP_NUM_THREADS"):
        ranks, cores = determine_local_world_size(given.nproc_per_node), len(os.sched_getaffinity(0))
        os.environ["OMP_NUM_THREADS"] = str(max(cores // max(ranks, 1), 1))


def watch_the_ranks() -> None:
    """Have torchrun start no ranks again that were refused, and not wait long for hosts that have stopped.

    A wrong option or wrong data would end the ranks again. A host that SIGTERM has stopped never comes to the
    barrier at the end, where torchrun waits for it for five minutes.
    """
    monitor = getattr(LocalElasticAgent, "_monitor_workers", None)
    if monitor is None:  # a name of its own that another torch may not have; then the ranks are started again
        return

    def watch(agent: LocalElasticAgent, *arguments: Any) -> Any:
        result = monitor(agent, *arguments)
        if any(failure.exitcode == USER_AT_FAULT for failure in result.failures.values()):
            agent._remaining_restarts = 0
        if result.state == WorkerState.SUCCEEDED and is_stopped():
            agent._exit_barrier_timeout = STOPPED_SECONDS
        return result

    LocalElasticAgent._monitor_workers = watch


def launch(arguments: list[str]) -> int:
    """Start the ranks and wait for them; return the exit code."""
    given = get_args_parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="shardtower_") as folder:
        note = Path(folder) / "run"
        address = own_address(given)
        set_environment(given, note, address)
        try:
            main([*defaults(given, address), *with_host_of_store(arguments, given, address)])
        except ChildFailedError as error:
            rank, failure = first_failure(error.failures)
            if failure.exitcode == USER_AT_FAULT and given.nnodes not in ("1", "1:1"):
                # Hosts meet in a store that ends with the launcher of one: the others speak first.
                time.sleep(OTHER_HOSTS_SECONDS)
            if failure.exitcode < 0:
                words = killed_words(rank, -failure.exitcode, next_words(note, given.training_script_args))
                print(f"error: {words}", file=sys.stderr, flush=True)
            return as_shells_say(failure.exitcode)
        except SignalException as error:
            return 128 + error.sigval
        except RendezvousError as error:
            words = NOT_MET.get(type(error), str(error))
            print(f"error: --rdzv-endpoint {given.rdzv_endpoint}: {words}", file=sys.stderr, flush=True)
            return 1
        return code_of_stopped()


if __name__ == "__main__":
    # What the launcher logs of ranks that end or are ended; they have said themselves what was wrong.
    logging.disable(logging.CRITICAL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_the_ranks)
    watch_the_ranks()
    sys.exit(launch(sys.argv[1:]))
