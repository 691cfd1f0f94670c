"""What a device holds and how fast it moves it: known ones by name, this machine, or a YAML file."""

import difflib
import math
import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from trainer.errors import ConfigError

GIGA = 10**9
CPU_GB_PER_S_A_CORE = 10.0
GLOO_GB_PER_S = 1.0

MAKES = r"nvidia|tesla|sxm\d?|pcie|hbm\d?e?"
"""Words of a driver's name for a device that tell nothing here."""


@dataclass(frozen=True)
class Hardware:
    """A device and its place in a host; sizes in 10^9 bytes, speeds in 10^9 bytes a second.

    Attributes:
        name: of the device.
        device: `cuda` or `cpu`.
        memory: of one device; on CPU that of a host.
        memory_speed: of reading a device's memory.
        host_memory: of a host for each of its devices, where tables behind a cache may live.
        link_speed: between a device and its host's memory, one way.
        intra_speed, inter_speed: between two devices of a host and of two hosts, one way, a device.
        devices: of one host.
        source: where the figures are from.
    """

    name: str
    device: str
    memory: float
    memory_speed: float
    host_memory: float
    link_speed: float
    intra_speed: float
    inter_speed: float
    devices: int
    source: str


def _gpu(name: str, sizes: tuple[float, float], speeds: tuple[float, ...], source: str) -> Hardware:
    memory, host_memory = sizes
    return Hardware(name, "cuda", memory, speeds[0], host_memory, *speeds[1:], devices=8, source=source)


KNOWN = {
    hardware.name: hardware
    for hardware in (
        _gpu("t4-16g", (16, 48), (320, 12, 12, 1.56), "NVIDIA T4 datasheet; AWS g4dn.metal, 100 Gbit/s"),
        _gpu("l4-24g", (24, 96), (300, 25, 25, 1.56), "NVIDIA L4 datasheet; AWS g6.48xlarge, 100 Gbit/s"),
        _gpu("a10g-24g", (24, 96), (600, 25, 25, 1.56), "NVIDIA A10G datasheet; AWS g5.48xlarge, 100 Gbit/s"),
        _gpu("a100-40g", (40, 144), (1555, 25, 300, 6.25), "NVIDIA A100 datasheet; AWS p4d, 400 Gbit/s"),
        _gpu("a100-80g", (80, 144), (2039, 25, 300, 6.25), "NVIDIA A100 datasheet; AWS p4de, 400 Gbit/s"),
        _gpu("h100-80g", (80, 256), (3350, 55, 450, 50), "NVIDIA H100 SXM datasheet; AWS p5, 3,200 Gbit/s"),
        _gpu("h200-141g", (141, 256), (4800, 55, 450, 50), "NVIDIA H200 datasheet; AWS p5e, 3,200 Gbit/s"),
    )
}
"""NVLink and PCIe one way, PCIe at four fifths of its nominal speed; a host's network shared by its GPUs."""


def named_hardware(name: str) -> Hardware:
    """The device of that name, this machine's processors (`cpu`), or what a YAML file says.

    Args: name: in any case, and as drivers report it: `NVIDIA H100 80GB HBM3` is `h100-80g`.
    Raises: ConfigError for an unknown name, or a file that cannot be used.
    """
    if name.endswith((".yaml", ".yml")):
        return _from_file(Path(name))
    plain = _plain(name)
    if plain == "cpu":
        return this_cpu()
    if plain in KNOWN:
        return KNOWN[plain]
    near = difflib.get_close_matches(plain, ["cpu", *KNOWN], n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?" if near else "A file of your own ends in .yaml"
    raise ConfigError(f"--hardware {name}: unknown; known are cpu, {', '.join(KNOWN)}. {hint}")


def _plain(name: str) -> str:
    """A device's name without its vendor and the make of its socket and memory."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and not re.fullmatch(MAKES, word)]
    return re.sub(r"(?<=\d)gb$", "g", "-".join(words))


def hardware_here(device: str) -> Hardware:
    """This machine, as `train` plans for it.

    Args: device: `cpu`, `cuda`, or `auto`: CUDA where there is a GPU.
    """
    if device != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        return this_gpu(properties.total_memory, properties.name)
    return this_cpu()


def this_cpu() -> Hardware:
    """This machine as a host of CPU ranks: its memory and cores measured, its speeds nominal."""
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / GIGA
    return Hardware(
        name="cpu",
        device="cpu",
        memory=memory,
        memory_speed=CPU_GB_PER_S_A_CORE * cores,
        host_memory=memory,
        link_speed=CPU_GB_PER_S_A_CORE * cores,
        intra_speed=GLOO_GB_PER_S,
        inter_speed=GLOO_GB_PER_S,
        devices=cores,
        source=f"measured here: {cores} cores, {memory:.0f} GB; nominal: {CPU_GB_PER_S_A_CORE:.0f} GB/s of "
        f"memory a core, {GLOO_GB_PER_S:.0f} GB/s between ranks over gloo",
    )


def this_gpu(memory_bytes: int, name: str) -> Hardware:
    """A GPU of this machine: its memory as given, its speeds those of the known device most like it."""
    known = [hardware for hardware in KNOWN.values() if hardware.memory * GIGA <= memory_bytes * 1.02]
    alike = max(known, key=lambda hardware: hardware.memory) if known else KNOWN["t4-16g"]
    # An A100 with 40 GB and one with 80 GB differ in speed, and drivers join words: A100-SXM4-40GB.
    words = re.split(r"[^A-Z0-9]+", name.upper())
    namesakes = [each for each in KNOWN.values() if each.name.split("-")[0].upper() in words]
    if namesakes:
        alike = min(namesakes, key=lambda hardware: abs(hardware.memory * GIGA - memory_bytes))
    speeds = "speeds" if namesakes else f"speeds, as it is not known, of {alike.name}"
    return replace(
        alike, memory=memory_bytes / GIGA, source=f"measured here: {name}; {speeds}: {alike.source}"
    )


def _from_file(path: Path) -> Hardware:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--hardware {path}: cannot be read ({reason}). Name a YAML file") from None
    if not isinstance(content, dict):
        raise ConfigError(f"--hardware {path}: holds no keys, such as `memory: 80`. Mend the file")
    kinds = {field.name: field.type for field in fields(Hardware)}
    for key in content:
        if key not in kinds:
            near = difflib.get_close_matches(str(key), kinds, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(kinds)}"
            raise ConfigError(f"{path}: {key}: no such key. {hint}")
    values: dict[str, Any] = {"name": path.stem, "source": str(path)} | content
    for key, kind in kinds.items():
        if key not in values:
            raise ConfigError(f"{path}: {key} is missing. Say it, as `{key}: ...`")
        _check_value(path, key, kind, values[key])
    return Hardware(**values)


def _check_value(path: Path, key: str, kind: object, value: object) -> None:
    if key == "device":
        good, needed = value in ("cpu", "cuda"), "cpu or cuda"
    elif kind is str:
        good, needed = isinstance(value, str), "text"
    elif kind is int:
        good, needed = isinstance(value, int) and value > 0, "a whole number from 1 up"
    else:
        good, needed = isinstance(value, int | float) and 0 < value < math.inf, "a number above 0"
    if not good or isinstance(value, bool):
        raise ConfigError(f"{path}: {key} is {value!r}, expected {needed}. Mend the file")
