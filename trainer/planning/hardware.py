"""Memory and speeds of devices: known ones by name, this machine, or a YAML file."""

import difflib
import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from trainer.distributed import host_limits
from trainer.errors import ConfigError
from trainer.formatting import format_bytes

GIGA = 10**9
CPU_GB_PER_S_PER_CORE = 10.0
GLOO_GB_PER_S = 1.0

IGNORED_WORDS = r"nvidia|tesla|sxm\d?|pcie|hbm\d?e?"
"""Words in a driver's name for a device that do not tell devices apart here."""


@dataclass(frozen=True)
class Hardware:
    """A kind of device in its host; sizes in 10^9 bytes, speeds in 10^9 bytes per second.

    Attributes:
        name: Name of the device.
        device: `cuda` or `cpu`.
        memory: Memory of one device; on CPU that of a host.
        memory_speed: Bandwidth of a device's memory.
        host_memory: Memory of a host per device, where tables behind a cache may live.
        link_speed: Bandwidth between a device and its host's memory, one way.
        intra_speed: Bandwidth between two devices of a host, one way, per device.
        inter_speed: Bandwidth between two devices of different hosts, one way, per device.
        devices: Devices per host.
        source: Where the figures are from.
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


@dataclass(frozen=True)
class Cluster:
    """Ranks on hosts of equal size, each rank with a device of the same kind.

    Attributes:
        hardware: Device of every rank.
        world_size: Ranks in all.
        local_world_size: Ranks per host.
    """

    hardware: Hardware
    world_size: int
    local_world_size: int

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return self.hardware.device

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        return self.world_size // self.local_world_size


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
"""NVLink and PCIe one way, PCIe at four fifths of its nominal speed; GPUs share their host's network."""


def named_hardware(name: str) -> Hardware:
    """Return the hardware of a name, of this machine's processors (`cpu`), or of a YAML file.

    Args:
        name: Name in any case, also as drivers report it: `NVIDIA H100 80GB HBM3` is `h100-80g`.

    Raises:
        ConfigError: The name is unknown, or the file cannot be used.
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
    """Return a device's name without its vendor and the type of its socket and memory."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    telling = [word for word in words if not re.fullmatch(IGNORED_WORDS, word)]
    return re.sub(r"(?<=\d)gb$", "g", "-".join(telling))


def hardware_here(device: str) -> Hardware:
    """Return the hardware of this machine, as `train` plans for it.

    Args:
        device: `cpu`, `cuda`, or `auto`: CUDA if there is a GPU.
    """
    if device != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = this_gpu(properties.total_memory, properties.name)
        share = host_limits.memory().usable / GIGA / torch.cuda.device_count()
        return replace(gpu, host_memory=min(gpu.host_memory, share))
    return this_cpu()


def this_cpu() -> Hardware:
    """Return this machine as a host of CPU ranks: memory and cores measured, speeds nominal."""
    cores, available = host_limits.cores(), host_limits.memory()
    memory = available.usable / GIGA
    limited = " (limit of its cgroup)" if available.is_limited else ""
    return Hardware(
        name="cpu",
        device="cpu",
        memory=memory,
        memory_speed=CPU_GB_PER_S_PER_CORE * cores,
        host_memory=memory,
        link_speed=CPU_GB_PER_S_PER_CORE * cores,
        intra_speed=GLOO_GB_PER_S,
        inter_speed=GLOO_GB_PER_S,
        devices=cores,
        source=f"measured here: {cores} cores, {format_bytes(available.usable)}{limited}; "
        f"nominal: {CPU_GB_PER_S_PER_CORE:.0f} GB/s of memory a core, "
        f"{GLOO_GB_PER_S:.0f} GB/s between ranks over gloo",
    )


def this_gpu(memory_bytes: int, name: str) -> Hardware:
    """Return a GPU of this machine, with the speeds of the known device that is most like it.

    Args:
        memory_bytes: Memory of the GPU, in bytes.
        name: Name that its driver reports.
    """
    smaller = [hardware for hardware in KNOWN.values() if hardware.memory * GIGA <= memory_bytes * 1.02]
    similar = max(smaller, key=lambda hardware: hardware.memory) if smaller else KNOWN["t4-16g"]
    # A100s with 40 GB and 80 GB differ in speed. Drivers join words: A100-SXM4-40GB.
    words = re.split(r"[^A-Z0-9]+", name.upper())
    same_model = [each for each in KNOWN.values() if each.name.split("-")[0].upper() in words]
    if same_model:
        similar = min(same_model, key=lambda hardware: abs(hardware.memory * GIGA - memory_bytes))
    speeds = "speeds" if same_model else f"speeds, as it is not known, of {similar.name}"
    return replace(
        similar, memory=memory_bytes / GIGA, source=f"measured here: {name}; {speeds}: {similar.source}"
    )


def _from_file(path: Path) -> Hardware:
    """Read hardware from a YAML file whose keys are the fields of `Hardware`."""
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
    """Refuse a value that is not of its field's type, or not above 0."""
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
