"""What a part of the GPU check works on and reports to."""

import gc
import json
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch


class Part:
    """What a part works on and reports to."""

    def __init__(self, name: str, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder / f"{name}.files"
        self.on_gpu = device == "cuda"
        self.place = torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")
        self._report = folder / f"{name}.jsonl"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def tell(self, text: str, ok: bool = True, **figures: object) -> None:
        """Report a line."""
        with self._report.open("a") as file:
            file.write(json.dumps({"text": text, "ok": bool(ok), "figures": figures}) + "\n")
        print(text, flush=True)

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Do one thing of several, and report what it raises, so that the others are still done."""
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            self.tell(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", ok=False)
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    def seconds(self, work: Callable[[], object], warm: int = 5, count: int = 20) -> float:
        """Return the mean seconds of `work`, the device's queue included."""
        for _ in range(warm):
            work()
        self.wait()
        started = time.perf_counter()
        for _ in range(count):
            work()
        self.wait()
        return (time.perf_counter() - started) / count

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back the device's memory of what is no longer referred to, cycles included."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def peak_bytes(self) -> int:
        """Return the most bytes that tensors took on the GPU since this was last asked; 0 on CPU."""
        if not self.on_gpu:
            return 0
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak


MAKE_UP = (
    "--data.name synthetic --data.synthetic_users {} --data.synthetic_items {} "
    "--data.synthetic_interactions {}"
)

SIZES = {"default": (943, 1682, 100_000), "ml-1m": (6040, 3706, 1_000_000)}
"""Configurations by name, with the sizes of the data sets that made-up ones stand in for."""
