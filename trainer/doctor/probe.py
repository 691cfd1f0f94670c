"""Imports the libraries one after another and prints what each says of itself, one line of JSON each.

It runs as a process of its own, `python -m trainer.doctor.probe`: wrong builds may end it at any import, and
the lines before that have been written.
"""

import importlib
import json
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from typing import Any

LIBRARIES = ("numpy", "pandas", "pyarrow", "torch", "fbgemm_gpu", "torchrec", "trainer.sharding.private_api")
"""In the order of their dependence; the last one checks what is used beyond the libraries' public API."""
DISTRIBUTIONS = {"fbgemm_gpu": ("fbgemm-gpu-cpu", "fbgemm-gpu")}
"""Where a library's distribution has another name."""


def main() -> None:
    """Import every library and print a line before and one after it."""
    from trainer.installation import quiet_libraries

    quiet_libraries()
    for name in LIBRARIES:
        say(importing=name)
        say(name=name, **imported(name))
    try:
        say(torch=about_torch())
    except Exception as error:
        say(torch={"error": words_of(error)})


def imported(name: str) -> dict[str, Any]:
    """Return a library's version and place, or why it cannot be imported."""
    found: dict[str, Any] = {"state": "imported", "version": None, "error": None, "shadow": None}
    try:
        found["version"] = getattr(importlib.import_module(name), "__version__", None)
    except ModuleNotFoundError as error:
        found |= {"state": "missing" if error.name == name else "fails", "error": words_of(error)}
    except Exception as error:
        found |= {"state": "fails", "error": words_of(error)}
    if found["state"] == "fails":
        found["shadow"] = shadow_of(name)
    return found


def shadow_of(name: str) -> str | None:
    """Return the file that hides an installed library, as one in a folder of PYTHONPATH may; None: none."""
    spec = find_spec(name) if "." not in name else None
    for package in DISTRIBUTIONS.get(name, (name,)):
        try:
            place = str(distribution(package).locate_file(""))
        except PackageNotFoundError:
            continue
        if spec is not None and spec.origin and not spec.origin.startswith(place):
            return spec.origin
    return None


def about_torch() -> dict[str, Any]:
    """Return the devices and backends of torch."""
    import torch
    import torch.distributed as dist

    available = torch.cuda.is_available()
    places = range(torch.cuda.device_count() if available else 0)
    return {
        "cuda": torch.version.cuda,
        "available": available,
        "gpus": [torch.cuda.get_device_name(place) for place in places],
        "gpu_bytes": [torch.cuda.get_device_properties(place).total_memory for place in places],
        "capabilities": ["{}.{}".format(*torch.cuda.get_device_capability(place)) for place in places],
        "built_for": torch.cuda.get_arch_list() if available else [],
        "gloo": dist.is_available() and dist.is_gloo_available(),
        "nccl": dist.is_available() and dist.is_nccl_available(),
    }


def words_of(error: BaseException) -> str:
    """Return an error as one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def say(**facts: Any) -> None:
    """Print facts as a line of JSON, at once."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
