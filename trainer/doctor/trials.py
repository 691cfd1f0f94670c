"""What is really tried: kernels on tiny tables, and ranks that send each other values."""

import socket
from contextlib import ExitStack

from trainer.doctor.findings import Facts, Verdict
from trainer.doctor.processes import Trial, answers
from trainer.doctor.software import look_imports, set_up
from trainer.errors import ConfigError
from trainer.facts.sharding_kinds import SHARDING_KINDS
from trainer.formatting import format_count
from trainer.planning.kernel_support import OPTIMIZERS, compute_kernel

KERNEL_TRIALS, ROUND_TRIP_RANK = "trainer.doctor.kernel_trials", "trainer.doctor.round_trip_rank"
TRIAL_SECONDS = 120
"""How long a process may be silent: it imports the libraries first, and may have to load a GPU's kernels."""
ADVICE = "If the other findings do not say why, set up the pinned packages"
MOST_CRASHES = 5
"""Processes that may crash before no further one is started."""
SHOWN = 3
"""Faults of kernels that are shown."""
RANK_SECONDS = 90
"""How long ranks may take, the import of the libraries included."""


def expected(devices: list[str]) -> list[str]:
    """Return the combinations of device, sharding and optimizer that should work, as `cpu,table_wise,sgd`."""
    found = []
    for device in devices:
        for sharding in SHARDING_KINDS:
            for optimizer in OPTIMIZERS:
                try:
                    compute_kernel(optimizer, sharding, device)
                except ConfigError:
                    continue
                found.append(f"{device},{sharding},{optimizer}")
    return found


def look_kernels() -> Facts:
    """Return what became of each combination that is said to work; a fault of None: it is right."""
    torch, libraries = look_imports()["torch"], look_imports()["libraries"]
    if torch is None or "error" in torch or any(each["state"] != "imported" for each in libraries.values()):
        return {"importable": False, "all": 0, "expected": 0, "tried": {}, "not_started": None}
    devices = ["cpu", *(["cuda"] if torch["available"] else [])]
    tried: dict[str, str | None] = {}
    not_started = None
    for device in devices:
        results, fault = try_all(expected([device]))
        tried |= results
        not_started = not_started or fault
    return {
        "importable": True,
        "all": len(devices) * len(SHARDING_KINDS) * len(OPTIMIZERS),
        "expected": len(expected(devices)),
        "tried": tried,
        "not_started": not_started,
    }


def try_all(combinations: list[str], module: str = KERNEL_TRIALS) -> tuple[dict[str, str | None], str | None]:
    """Try combinations in one process, or, where some end it, in another one from the next on.

    Args:
        combinations: As the module takes them.
        module: Module that tries them.

    Returns:
        The fault of each that was tried, None if there is none; and why no process came to the first of them.
    """
    tried: dict[str, str | None] = {}
    crashes, left = 0, combinations
    while left and crashes < MOST_CRASHES:
        trying = None
        with Trial(module, *left) as trial:
            for line in trial.lines(TRIAL_SECONDS):
                trying = line.get("trying")
                if "tried" in line:
                    tried[line["tried"]] = line["fault"]
            fault = trial.fault()
        if fault is None:
            break
        if trying is None and not tried.keys() & set(left):
            return tried, fault
        if trying is not None:
            tried[trying] = fault
        crashes += 1
        left = [each for each in left if each not in tried]
    return tried, None


def judge_kernels(facts: Facts) -> Verdict:
    """Judge whether the kernels do what is said of them."""
    if not facts["importable"]:
        return Verdict("note", "not tried, as a library cannot be imported; see imports")
    if facts["not_started"]:
        return Verdict(
            "error", f"nothing could be tried: {facts['not_started']}", "Set up the pinned packages", set_up()
        )
    tried = facts["tried"]
    wrong = {name: fault for name, fault in tried.items() if fault}
    of = f"of {facts['all']} combinations of device, sharding and optimizer {facts['expected']} should work"
    if wrong:
        groups: dict[str, list[str]] = {}
        for name, fault in wrong.items():
            groups.setdefault(fault, []).append(name.replace(",", " "))
        shown = [f"{_names(names)}: {fault}" for fault, names in list(groups.items())[:SHOWN]]
        more = f"; and {len(groups) - SHOWN} other faults, see --json" if len(groups) > SHOWN else ""
        advice = (
            "Use other ones, --optimizer.name and --sharding.kind name them; or set up the pinned packages"
        )
        return Verdict("error", f"{of}; {len(wrong)} do not. {'; '.join(shown)}{more}", advice, set_up())
    if len(tried) < facts["expected"]:
        return Verdict("warning", f"{of}; only {len(tried)} could be tried")
    return Verdict("ok", f"{of}, and each trains a tiny table by its rule")


def _names(names: list[str]) -> str:
    """Return the first combination, and how many others there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def look_round_trip(backend: str) -> Facts:
    """Return what two ranks have said that sent each other values; one rank where there is one GPU alone.

    Args:
        backend: `gloo` or `nccl`.
    """
    torch = look_imports()["torch"]
    facts: Facts = {"backend": backend, "there": False, "ranks": 0, "answers": [], "faults": []}
    if torch is None or "error" in torch:
        return facts | {"there": None}
    gpus = len(torch["gpus"])
    if not torch[backend] or (backend == "nccl" and not gpus):
        return facts
    ranks = min(2, gpus) if backend == "nccl" else 2
    device = "cuda" if backend == "nccl" else "cpu"
    said, faults = exchange(ranks, device, backend)
    return facts | {"there": True, "ranks": ranks, "answers": said, "faults": faults}


def exchange(
    ranks: int, device: str, backend: str, module: str = ROUND_TRIP_RANK
) -> tuple[list[Facts | None], list[str | None]]:
    """Start ranks that meet on this host; return the last line and the fault of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        trials = []
        for rank in range(ranks):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            environment = {name: str(value) for name, value in (places | meeting).items()}
            trials.append(stack.enter_context(Trial(module, device, backend, environment=environment)))
        return answers(trials, RANK_SECONDS)


def judge_round_trip(facts: Facts) -> Verdict:
    """Judge whether ranks of this host reach each other."""
    if facts["there"] is None:
        return Verdict("note", "not tried, as torch could not be asked")
    if not facts["there"]:
        return Verdict("ok", f"not tried: there is no {facts['backend']} here, or no GPU for it")
    ranks = format_count(facts["ranks"], "rank")
    faults = [f"rank {rank}: {fault}" for rank, fault in enumerate(facts["faults"]) if fault]
    if faults or None in facts["answers"]:
        words = "; ".join(faults) or "a rank said nothing"
        advice = "See that nothing (firewall, network namespace) keeps processes of this host from localhost"
        if facts["backend"] == "nccl":
            advice = "For details start a training with NCCL_DEBUG=INFO; --backend gloo does without NCCL"
        return Verdict("error", f"{ranks} did not exchange values. {words}", advice)
    wrong = sorted({name for answer in facts["answers"] for name in answer["wrong"]})
    if wrong:
        return Verdict(
            "error", f"{ranks} exchanged wrong values by {', '.join(wrong)}", "Set up anew", set_up()
        )
    answer = facts["answers"][0]
    text = (
        f"{ranks} exchanged values; {answer['megabytes']:.3g} MB are summed in {answer['milliseconds']:g} ms"
    )
    shared = facts["backend"] == "gloo" and all(each["shared_memory"] for each in facts["answers"])
    return Verdict("ok", f"{text}, and memory is shared" if shared else text)
