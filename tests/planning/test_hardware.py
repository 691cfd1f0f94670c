"""Devices by name, by file, and this machine."""

import re
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from trainer.errors import ConfigError
from trainer.planning.capacity import capacity
from trainer.planning.hardware import GIGA, KNOWN, named_hardware, this_gpu

OWN = """
device: cuda
memory: 192
memory_speed: 8000
host_memory: 200
link_speed: 60
intra_speed: 900
inter_speed: 50
devices: 8
"""


def test_known_devices_have_the_memory_in_their_name_and_a_source():
    assert {name: hardware.memory for name, hardware in KNOWN.items()} == {
        "t4-16g": 16,
        "l4-24g": 24,
        "a10g-24g": 24,
        "a100-40g": 40,
        "a100-80g": 80,
        "h100-80g": 80,
        "h200-141g": 141,
    }
    assert all("datasheet" in hardware.source for hardware in KNOWN.values())


def test_this_machine_is_measured_and_shared_by_its_ranks():
    cpu = named_hardware("cpu")
    assert cpu.memory * GIGA == pytest.approx(psutil.virtual_memory().total)
    # 15% are left to everything but tables.
    assert capacity(cpu, 4) == pytest.approx(0.85 * psutil.virtual_memory().total / 4, abs=1)
    assert capacity(KNOWN["h100-80g"], 8) == 68 * GIGA


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("h100", "h100-80g or "),
        # Other devices than A10G and H200, though their names begin alike.
        *(("NVIDIA A10", "a10g-24g or "), ("H20", "h200-141g"), ("NVIDIA H20-141GB", "h200-141g")),
        *(("A100", "a100-"), ("a10g-24", "a10g-24g"), ("RTX A100-80g", "a100-80g")),
    ],
)
def test_a_name_that_is_not_known_names_the_nearest(name, near):
    words = rf"--hardware {re.escape(name)}: unknown; .* Did you mean .*{near}.*\?$"
    with pytest.raises(ConfigError, match=words) as error:
        named_hardware(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *(("H100-80G", "h100-80g"), ("NVIDIA H100 80GB HBM3", "h100-80g"), ("nvidia a10g 24GB", "a10g-24g")),
        *(("NVIDIA A100-SXM4-40GB", "a100-40g"), ("NVIDIA A100 80GB PCIe", "a100-80g")),
        ("Tesla T4-16GB", "t4-16g"),
    ],
)
def test_a_name_is_known_in_any_case_and_as_drivers_write_it(name, known):
    assert named_hardware(name) == KNOWN[known]
    assert named_hardware("CPU").device == "cpu"


def test_hardware_of_ones_own_is_read_from_a_file(tmp_path: Path):
    path = tmp_path / "b200.yaml"
    path.write_text(OWN)
    own = named_hardware(str(path))
    assert (own.name, own.memory, own.devices, own.source) == ("b200", 192, 8, str(path))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("memory: 192", "memroy: 192", r"memroy: no such key. Did you mean memory\?"),
        ("memory: 192", "", "memory is missing. Say it"),
        ("memory: 192", "memory: big", "memory is 'big', expected a number above 0"),
        ("memory: 192", "memory: -1", "memory is -1, expected a number above 0"),
        ("memory: 192", "memory: .inf", "memory is inf, expected a number above 0"),
        ("memory: 192", "memory: .nan", "memory is nan, expected a number above 0"),
        ("memory: 192", "memory: true", "memory is True, expected a number above 0"),
        ("memory: 192", "memory: '192'", "memory is '192', expected a number above 0"),
        ("memory: 192", "memory:", "memory is None, expected a number above 0"),
        ("device: cuda", "device: cuda\nname: 5", "name is 5, expected text"),
        ("devices: 8", "devices: 0", "devices is 0, expected a whole number from 1 up"),
        ("devices: 8", "devices: 1.5", "devices is 1.5, expected a whole number from 1 up"),
        ("device: cuda", "device: tpu", "device is 'tpu', expected cpu or cuda"),
        (OWN, "1: 2", "1: no such key. Known are name, device, memory"),
        (OWN, "", "holds no keys"),
        (OWN, "- a list", "holds no keys"),
        (OWN, "a: 1\n---\nb: 2", "cannot be read"),
        (OWN, "a: [", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_and_where_in_one_line(before, after, words, tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace(before, after))
    with pytest.raises(ConfigError, match=words) as error:
        named_hardware(str(path))
    assert re.match(rf"(--hardware )?{re.escape(str(path))}: ", str(error.value))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("none.yaml", "bytes.yaml", "folder.yaml", "none.yml"):
        with pytest.raises(
            ConfigError, match=rf"^--hardware .*{name}: cannot be read \(.*Name a YAML"
        ) as error:
            named_hardware(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_a_name_like_none_says_how_to_give_ones_own():
    with pytest.raises(ConfigError, match=r"--hardware zzz: unknown; .* A file of your own ends in \.yaml"):
        named_hardware("zzz")


@pytest.mark.parametrize(
    ("name", "gigabytes", "like"),
    [
        # Names and memory as drivers report them: 80 GB are 79 to 80 GiB, and less with error correction.
        *(("NVIDIA H100 80GB HBM3", 85.0, "h100-80g"), ("NVIDIA H100 PCIe", 85.0, "h100-80g")),
        *(("NVIDIA A100-SXM4-80GB", 85.1, "a100-80g"), ("NVIDIA A100 80GB PCIe", 85.1, "a100-80g")),
        *(("NVIDIA A100-SXM4-40GB", 42.3, "a100-40g"), ("NVIDIA A100-PCIE-40GB", 42.3, "a100-40g")),
        ("NVIDIA A100 40GB PCIe", 42.3, "a100-40g"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5.0, "a100-40g"),
        *(("Tesla T4", 15.6, "t4-16g"), ("NVIDIA L4", 23.6, "l4-24g"), ("NVIDIA A10G", 23.6, "a10g-24g")),
        ("NVIDIA H200", 150.1, "h200-141g"),
        # Of an unknown name, the largest known device that is no larger; below all, the smallest.
        *(("NVIDIA L40S", 47.7, "a100-40g"), ("NVIDIA GeForce RTX 3060", 12.6, "t4-16g")),
    ],
)
def test_a_gpu_here_has_its_own_memory_and_the_speeds_of_its_like(name, gigabytes, like):
    found = this_gpu(int(gigabytes * GIGA), name)
    unknown = f", as it is not known, of {like}" if "L40S" in name or "RTX" in name else ""
    assert found == replace(
        KNOWN[like],
        memory=gigabytes,
        source=f"measured here: {name}; speeds{unknown}: {KNOWN[like].source}",
    )
