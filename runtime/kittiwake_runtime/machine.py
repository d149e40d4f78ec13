"""The machine that this process runs on, and the state it is in: what a measurement has to be read with.

``describe`` is what stays the same (two measurements can be compared when it does), ``read_state`` what changes from
minute to minute. All is read from /proc, /sys and two small programs where they are there (nvidia-smi, nvpmodel).
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECONDS = 10
_GPU_STATE = "clocks.sm,clocks.mem,temperature.gpu,power.draw,pstate"


@dataclass(frozen=True)
class Machine:
    """What a measurement depends on and what doesn't change while it runs.

    Args:
        board: a Jetson's or another single board's name; empty on a PC.
        cpu: the processor's name, or its architecture.
        cores: those that this process may use.
        memory_gib: of the machine, rounded.
        system: kernel and architecture.
        gpu: name, compute capability, memory and driver, as nvidia-smi says; empty without one.
        governor: of the processor's clock, as "schedutil"; empty where the system doesn't tell.
        clock_limits_mhz: the least and the largest clock that the governor may choose; empty where not told.
        power_mode: as nvpmodel says, and the GPU's power limit; empty where neither is there.
    """

    board: str
    cpu: str
    cores: int
    memory_gib: int
    system: str
    gpu: str
    governor: str
    clock_limits_mhz: tuple[int, ...]
    power_mode: str


def describe(root: Path = Path("/")) -> Machine:
    """This machine.

    Args:
        root: where /proc and /sys stand; another folder serves tests.
    """
    memory = matched(root / "proc/meminfo", r"MemTotal:\s*(\d+) kB")
    clocks = root / "sys/devices/system/cpu"
    limits = [_khz(path) for name in ("min", "max") for path in _all(clocks, f"cpu*/cpufreq/scaling_{name}_freq")]
    power = [_first_line(["nvpmodel", "-q"], r"Power Mode: (\S+)"), _nvidia_smi("power.limit")]
    return Machine(
        board=read_text(root / "proc/device-tree/model"),
        cpu=matched(root / "proc/cpuinfo", r"model name\s*:\s*(.+)") or platform.processor() or platform.machine(),
        cores=usable_cpus(),
        memory_gib=round(int(memory) / 2**20) if memory else 0,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        gpu=_nvidia_smi("name,compute_cap,memory.total,driver_version"),
        governor=", ".join(sorted({read_text(path) for path in _all(clocks, "cpu*/cpufreq/scaling_governor")})),
        clock_limits_mhz=(min(limits), max(limits)) if limits else (),
        power_mode=", ".join(mode for mode in power if mode and "N/A" not in mode),
    )


def read_state(root: Path = Path("/")) -> dict[str, Any]:
    """Clocks, temperatures and load at this moment.

    Returns:
        ``clocks_mhz`` (the processors' now), ``temperatures_c`` by thermal zone, ``load_1min`` (processes that wanted
        to run) and ``gpu`` (clocks, temperature, power); empty where the machine doesn't tell.
    """
    clocks = _all(root / "sys/devices/system/cpu", "cpu*/cpufreq/scaling_cur_freq")
    load = matched(root / "proc/loadavg", r"^([\d.]+)")
    return {
        "clocks_mhz": [_khz(path) for path in clocks],
        "temperatures_c": _temperatures(root / "sys/class/thermal"),
        "load_1min": float(load) if load else None,
        "gpu": _nvidia_smi(_GPU_STATE),
    }


def usable_cpus() -> int:
    """The processors that this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_text(path: Path) -> str:
    """A small file of the kernel's; empty when it can't be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def matched(path: Path, pattern: str) -> str:
    """The first group of a pattern in a file; empty when there is none."""
    match = re.search(pattern, read_text(path))
    return match[1].strip() if match else ""


def peak_rss_mb() -> float | None:
    """Largest resident memory of this process so far, 10^6 bytes; None where the system doesn't tell.

    Not getrusage's, which remembers the process that this one was forked from.
    """
    kib = matched(Path("/proc/self/status"), r"VmHWM:\s*(\d+) kB")
    return int(kib) * 1024 / 1e6 if kib else None


def _temperatures(folder: Path) -> dict[str, float]:
    """By the zones' names; a zone that is off (a Jetson's without load) can't be read and is left out."""
    found = {}
    for zone in _all(folder, "thermal_zone*"):
        milli = read_text(zone / "temp")
        if re.fullmatch(r"-?\d+", milli):
            found[read_text(zone / "type") or zone.name] = int(milli) / 1000
    return found


def _all(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern), key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))])


def _khz(path: Path) -> int:
    text = read_text(path)
    return round(int(text) / 1000) if text.isdecimal() else 0


def _nvidia_smi(columns: str) -> str:
    return _first_line(["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader"], r"^(.+)$")


def _first_line(command: list[str], pattern: str) -> str:
    """The first group of a pattern in what a program says; empty when it isn't there, fails or says no such thing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(pattern, done.stdout, re.MULTILINE)
    return match[1].strip() if match else ""
