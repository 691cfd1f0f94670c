"""What is installed: versions, builds that cannot work together, and libraries that talk too much.

Packages are asked for their metadata and not imported: torch takes seconds, and wrong builds fail there.
"""

import logging
import os
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version

from trainer import __version__

CPU_BUILD, CUDA_BUILD = "fbgemm-gpu-cpu", "fbgemm-gpu"
"""Distributions of FBGEMM. Both install the package `fbgemm_gpu`: the later one overwrites the other."""
PAIRS = {"2.11": "1.6", "2.12": "1.7", "2.13": "1.8", "2.14": "1.9"}
"""Minor versions of TorchRec and FBGEMM that belong to one of torch; others of torch are not judged."""
OLDEST = {"numpy": 2, "pandas": 3, "pyarrow": 26}
"""Oldest major versions that can be used, by distribution."""
REMEDY = "Run: bash launch/setup.sh"
ONLY_EXPORTS = "this installation opens exports alone; to train, run in a checkout: bash launch/setup.sh"


def versions_text() -> str:
    """Return the version of this package and of those that it is built on, one a line."""
    found = _versions("torch", "torchrec", CPU_BUILD, CUDA_BUILD)
    lines = {"shardtower": __version__, "Python": platform.python_version(), **found}
    return "\n".join(f"{name} {number}" for name, number in lines.items())


def installation_fault(missing: bool = True) -> str | None:
    """Return what is wrong with the installed packages, with a remedy; None: nothing that is known.

    Args:
        missing: Whether to name packages without metadata, as nightly builds of another name are.
    """
    found = _versions("torch", "torchrec", CPU_BUILD, CUDA_BUILD, *OLDEST)
    if CPU_BUILD in found and CUDA_BUILD in found:
        return (
            f"{CUDA_BUILD} {found[CUDA_BUILD]} (CUDA) and {CPU_BUILD} {found[CPU_BUILD]} are installed over "
            f"each other. Run: pip uninstall {CUDA_BUILD} {CPU_BUILD}, then: bash launch/setup.sh"
        )
    if CUDA_BUILD in found and found.get("torch", "").endswith("+cpu"):
        return (
            f"{CUDA_BUILD} {found[CUDA_BUILD]} needs CUDA, and torch {found['torch']} has none. Run: "
            f"pip uninstall {CUDA_BUILD}, then: bash launch/setup.sh"
        )
    if missing and not found.keys() & {"torch", "torchrec"}:
        return f"torch and torchrec are not installed: {ONLY_EXPORTS}"
    for name in ("torch", "torchrec", *OLDEST):
        if missing and name not in found:
            return f"{name} is not installed. {REMEDY}"
    if missing and CPU_BUILD not in found and CUDA_BUILD not in found:
        return f"neither {CPU_BUILD} nor {CUDA_BUILD} is installed. {REMEDY}"
    for name, least in OLDEST.items():
        if name in found and int(found[name].split(".")[0]) < least:
            return f"{name} {found[name]} is installed, expected {least} or newer. {REMEDY}"
    paired = PAIRS.get(_minor(found.get("torch", "")))
    for name in ("torchrec", CPU_BUILD, CUDA_BUILD):
        if paired and name in found and _minor(found[name]) != paired:
            return (
                f"{name} {found[name]} is installed, but {paired} belongs to torch {found['torch']}. {REMEDY}"
            )
    return None


def _minor(number: str) -> str:
    """Return the minor version: `2.13` of `2.13.0+cpu`."""
    return ".".join(number.split(".")[:2])


def _versions(*names: str) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def quiet_libraries() -> None:
    """Keep the libraries' notes to their own developers out of what the user reads."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("torchrec", "fbgemm_gpu", "torch", "torchmetrics", "tensordict", "pyre_extensions"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
