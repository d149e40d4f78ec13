"""The machine's description against recorded files of a Jetson, and against psutil on this one."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from kittiwake_runtime.machine import describe, matched, peak_rss_mb, read_state, read_text, usable_cpus

FILES = {
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\n",
    "proc/meminfo": "MemTotal:        7802784 kB\nMemFree:          521336 kB\n",
    "proc/loadavg": "1.52 0.98 0.40 2/615 3411\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "115200\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1728000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1113600\n",
    "sys/devices/system/cpu/cpu10/cpufreq/scaling_cur_freq": "806400\n",
    "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "960000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48218\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "",
    "sys/class/thermal/thermal_zone10/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone10/temp": "-1500\n",
}


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_jetson_is_described(jetson: Path) -> None:
    machine = describe(jetson)
    assert machine.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert machine.governor == "schedutil"
    assert machine.clock_limits_mhz == (115, 1728)
    assert machine.memory_gib == 7


def test_its_state_is_read_in_the_order_of_its_parts(jetson: Path) -> None:
    state = read_state(jetson)
    assert state["clocks_mhz"] == [1114, 960, 806]
    assert state["temperatures_c"] == {"cpu-thermal": 48.218, "tj-thermal": -1.5}
    assert state["load_1min"] == 1.52


def test_the_power_mode_is_nvpmodels(jetson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nvpmodel"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert describe(jetson).power_mode == "MAXN_SUPER"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert describe(jetson).power_mode == ""


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    machine, state = describe(tmp_path), read_state(tmp_path)
    assert (machine.board, machine.governor, machine.clock_limits_mhz, machine.memory_gib) == ("", "", (), 0)
    assert (state["clocks_mhz"], state["temperatures_c"], state["load_1min"]) == ([], {}, None)
    assert read_text(tmp_path) == ""
    assert matched(tmp_path / "absent", "(x)") == ""


def test_this_machine_is_as_psutil_says() -> None:
    machine = describe()
    assert machine.cores == usable_cpus() == len(psutil.Process().cpu_affinity())
    assert machine.memory_gib == round(psutil.virtual_memory().total / 2**30)
    assert machine.system.endswith(os.uname().machine)


def test_peak_memory_is_at_least_what_is_held_now() -> None:
    peak = peak_rss_mb()
    assert peak is not None
    assert peak >= 0.9 * psutil.Process().memory_info().rss / 1e6
