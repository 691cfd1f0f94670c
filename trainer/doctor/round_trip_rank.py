"""One rank of a round trip: `python -m trainer.doctor.round_trip_rank DEVICE BACKEND`.

Environment variables tell it who it is, as torchrun's do. It joins the others as a training does, sends
values by the collectives that a training uses, and says what came back.
"""

import os
import sys
import time

from trainer.doctor.probe import say

SECONDS, VALUES = 40, 2**18


def main(device: str, backend: str) -> None:
    """Exchange values with the other ranks, and print whether they are right, and how fast they were."""
    from trainer.installation import quiet_libraries

    quiet_libraries()
    import torch
    import torch.distributed as dist

    from trainer.distributed.world import join_world

    with join_world(device, backend, timeout_seconds=SECONDS) as world:
        own = torch.full((VALUES,), float(world.rank + 1), device=world.device)
        faults, ranks = [], world.size
        total, everything = float(ranks * (ranks + 1) // 2), torch.arange(1.0, ranks + 1)
        if not bool((world.sum(own) == total).all()):
            faults.append("all_reduce")
        if not torch.equal(world.all_gather(own[:1]).flatten().cpu(), everything):
            faults.append("all_gather")
        received = torch.empty(ranks, device=world.device)
        dist.all_to_all_single(received, own[:ranks].clone())
        if not torch.equal(received.cpu(), everything):
            faults.append("all_to_all")
        started = time.perf_counter()
        for _ in range(5):
            world.sum(own)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - started) / 5
        shared = world.buffers is not None and world.buffers.of(1) is not None
        say(
            wrong=faults,
            milliseconds=round(seconds * 1000, 2),
            megabytes=VALUES * 4 / 1e6,
            shared_memory=shared,
        )


if __name__ == "__main__":
    main(*sys.argv[1:3])
    sys.stdout.flush()
    os._exit(0)  # what the libraries do at their end is not what is tried here
