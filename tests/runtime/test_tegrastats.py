"""The parser against lines that real boards printed, energy against closed forms, both against garbage.

Where each line is from stands with it. They are quoted from public repositories, whole and unaltered, as
they stood on 2026-11-27.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from kittiwake_runtime.tegrastats import (
    Core,
    Grammar,
    Sample,
    TegrastatsError,
    energy_j,
    parse_line,
    read_log,
    summarize,
    throttling,
    total_rails,
)

# vivh3/edge-inference-pipeline, tests/test_tegrastats.py: a log of an Orin Nano Super, JetPack 6.2, L4T 36.4.3.
ORIN_NANO_JETPACK_6 = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) "
    "CPU [38%@1497,2%@729,1%@729,0%@729,1%@729,0%@729] EMC_FREQ 61%@2133 "
    "GR3D_FREQ 99%@[612] NVDEC off NVJPG off VIC off OFA off APE 200 "
    "cpu@57.125C soc2@55.093C soc0@56.625C gpu@58.625C tj@58.312C soc1@55.937C "
    "VDD_IN 16321mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/3659mW"
)
# lesomnus/tegra-exporter, stats/parse_test.go: an AGX Orin, L4T R36.4.4.
AGX_ORIN_JETPACK_6 = (
    "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU "
    "[14%@2188,5%@2112,8%@2035,14%@2201,46%@1267,47%@1267,2%@1267,10%@1267,4%@1036,5%@1036,6%@1036,10%@1036] "
    "EMC_FREQ 3%@2133 GR3D_FREQ 0%@[0,0] NVENC 79%@166 NVDEC off NVJPG off NVJPG1 off VIC 36%@115 OFA off NVDLA0 off "
    "NVDLA1 off PVA0_FREQ off APE 174 cpu@52.562C soc2@48.437C soc0@49.093C tj@52.562C soc1@49.656C "
    "VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4707mW/4707mW"
)
# Notes in a public repository, an AGX Orin before JetPack 6: sensors that are off, rails that are not connected, and
# the memory's share of VIN_SYS_5V0 besides.
AGX_ORIN_JETPACK_5 = (
    "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU "
    "[0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 VIC_FREQ 729 APE 174 CV0@-256C CPU@42.593C Tboard@32C SOC2@39.343C Tdiode@33.25C "
    "SOC0@39.375C CV1@-256C GPU@-256C tj@42.593C SOC1@40.468C CV2@-256C VDD_GPU_SOC 2399mW/2399mW "
    "VDD_CPU_CV 400mW/400mW VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
# dlhagger/SqueakView, tests of its tegrastats reader: an Orin Nano, L4T R39, read by a user who is not root.
ORIN_NANO_JETPACK_7 = (
    "09-01-2026 09:25:18 RAM 5739/7546MB (lfb 1x2MB) SWAP 2047/2048MB (cached 209MB) "
    "CPU [72%@1728,75%@1728,88%@1728,79%@1728,87%@1728,78%@1728] "
    "GR3D_FREQ 33% cpu@50C/50C soc2@47.937C/47.937C "
    "soc0@48.437C/48.437C gpu@48.75C/48.75C tj@50C/50C "
    "soc1@48.5C/48.5C VDD_IN 9761mW/9761mW/9761mW "
    "VDD_CPU_GPU_CV 4238mW/4238mW/4238mW VDD_SOC 1825mW/1825mW/1825mW"
)
# lesomnus/tegra-exporter, stats/parse_test.go: an AGX Orin with four cores off, L4T R39.2.0.
AGX_ORIN_JETPACK_7 = (
    "07-31-2026 14:58:05 RAM 4714/62878MB (lfb 7x4MB) SWAP 0/2048MB (cached 0MB) CPU "
    "[78%@1728,33%@1728,46%@1728,55%@1728,49%@729,48%@729,37%@729,57%@729,off,off,off,off] EMC_FREQ 2%@2133 "
    "GR3D_FREQ 0%@[0,0] NVENC0 off NVDEC0 off NVJPG0 off NVJPG1 off VIC off OFA off NVDLA0 off NVDLA1 off "
    "PVA0_FREQ off APE 174 cpu@50.718C/50.718C soc2@47.656C/47.656C soc0@47.156C/47.156C tj@50.718C/50.718C "
    "soc1@49C/49C VDD_GPU_SOC 2265mW/2265mW/2265mW VDD_CPU_CV 2643mW/2643mW/2643mW VIN_SYS_5V0 4722mW/4722mW/4722mW"
)
# lesomnus/tegra-exporter, stats/parse_test.go: a Thor module, L4T R39.2.0.
THOR_MODULE = (
    "07-23-2026 15:29:27 RAM 9091/125811MB (lfb 19x4MB) SWAP 0/2048MB (cached 0MB) CPU "
    "[40%@972,16%@972,18%@972,20%@972,13%@972,11%@972,15%@972,19%@972,10%@972,15%@972,28%@972,11%@972,11%@972,15%@972] "
    "EMC_FREQ 7%@3200 GR3D_FREQ @[314,314,314] NVENC0_FREQ @1556 NVENC1_FREQ @1556 NVDEC0_FREQ @1556 NVDEC1_FREQ @1556 "
    "NVJPG0_FREQ @1556 VIC 59%@423 OFA_FREQ @1556 PVA0_FREQ off APE 300 cpu@34.312C/34.843C tj@35.906C/35.906C "
    "soc012@34.093C/34.437C gpu@35.906C/35.906C soc345@34.437C/34.437C VDD_GPU 4925mW/4925mW/4925mW "
    "VDD_CPU_SOC_MSS 7953mW/8332mW/8710mW VIN_SYS_5V0 6667mW/6717mW/6767mW"
)
# wendylabsinc/WendyOS, pull request 1316: an AGX Thor kit under load, JetPack 7.2, read by a user who is not root.
THOR_KIT = (
    "07-02-2026 13:45:44 RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) CPU "
    "[2%@972,1%@972,0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,2%@972] "
    "cpu@60.406C tj@63.281C soc012@58.468C gpu@62.906C soc345@63.281C "
    "VDD_GPU 37528mW/37528mW/37528mW VDD_CPU_SOC_MSS 18961mW/18961mW/18961mW "
    "VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW"
)
# A page “Reading tegrastats output” in a public repository: an AGX Thor kit, L4T R38.4.0, figures without peaks.
THOR_KIT_R38 = (
    "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,1%@972,0%@972,"
    "0%@972,0%@972,0%@972,8%@972,0%@972,0%@972] EMC_FREQ 0%@2750 GR3D_FREQ @[314,314,314] NVENC0_FREQ @314 "
    "NVENC1_FREQ @314 NVDEC0_FREQ @314 NVDEC1_FREQ @314 NVJPG0_FREQ @314 VIC off OFA_FREQ @315 PVA0_FREQ off APE 300 "
    "cpu@37.343C tj@38.875C soc012@37.468C gpu@38.875C soc345@37.406C VDD_GPU 1962mW/1962mW "
    "VDD_CPU_SOC_MSS 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW VIN 19780mW/19780mW"
)
RECORDED = (
    ORIN_NANO_JETPACK_6,
    AGX_ORIN_JETPACK_6,
    AGX_ORIN_JETPACK_5,
    ORIN_NANO_JETPACK_7,
    AGX_ORIN_JETPACK_7,
    THOR_MODULE,
    THOR_KIT,
    THOR_KIT_R38,
)


def sample(time_s: float, milliwatts: int) -> Sample:
    return replace(parse_line(ORIN_NANO_JETPACK_6, time_s), rails_mw={"VDD_IN": milliwatts})


def test_every_field_of_a_line_is_read() -> None:
    read = parse_line(ORIN_NANO_JETPACK_6, time_s=7.5)
    assert read == Sample(
        time_s=7.5,
        grammar=Grammar.ORIN_JETPACK_6,
        ram_used_mb=6712,
        ram_total_mb=7620,
        cores=(Core(38, 1497), Core(2, 729), Core(1, 729), Core(0, 729), Core(1, 729), Core(0, 729)),
        gpu_percent=99,
        gpu_mhz=(612,),
        memory_mhz=2133,
        temperatures_c={"cpu": 57.125, "soc2": 55.093, "soc0": 56.625, "gpu": 58.625, "tj": 58.312, "soc1": 55.937},
        rails_mw={"VDD_IN": 16321, "VDD_CPU_GPU_CV": 7104, "VDD_SOC": 3120},
    )


@pytest.mark.parametrize(
    ("line", "grammar", "cores", "gpu_percent", "gpu_mhz", "tj_c", "rails", "total_mw"),
    [
        (ORIN_NANO_JETPACK_6, Grammar.ORIN_JETPACK_6, 6, 99, (612,), 58.312, 1, 16321),
        (AGX_ORIN_JETPACK_6, Grammar.ORIN_JETPACK_6, 12, 0, (0, 0), 52.562, 3, 2412 + 1607 + 4707),
        (AGX_ORIN_JETPACK_5, Grammar.ORIN_JETPACK_6, 12, 0, (0,), 42.593, 3, 2399 + 400 + 4032),
        (ORIN_NANO_JETPACK_7, Grammar.ORIN_JETPACK_7, 6, 33, (), 50.0, 1, 9761),
        (AGX_ORIN_JETPACK_7, Grammar.ORIN_JETPACK_7, 8, 0, (0, 0), 50.718, 3, 2265 + 2643 + 4722),
        (THOR_MODULE, Grammar.THOR, 14, None, (314, 314, 314), 35.906, 3, 4925 + 7953 + 6667),
        (THOR_KIT, Grammar.THOR, 14, None, (), 63.281, 1, 87426),
        (THOR_KIT_R38, Grammar.THOR, 14, None, (314, 314, 314), 38.875, 1, 19780),
    ],
)
def test_the_grammars(
    line: str,
    grammar: Grammar,
    cores: int,
    gpu_percent: int | None,
    gpu_mhz: tuple[int, ...],
    tj_c: float,
    rails: int,
    total_mw: int,
) -> None:
    read = parse_line(line, time_s=0.0)
    assert read.grammar is grammar
    assert sum(core is not None for core in read.cores) == cores
    assert (read.gpu_percent, read.gpu_mhz) == (gpu_percent, gpu_mhz)
    assert read.temperatures_c["tj"] == tj_c
    assert len(total_rails(read)) == rails
    assert sum(read.rails_mw[rail] for rail in total_rails(read)) == total_mw


def test_sensors_that_are_off_and_rails_that_are_not_connected_are_left_out() -> None:
    read = parse_line(AGX_ORIN_JETPACK_5)
    assert not {"cv0", "cv1", "cv2", "gpu"} & set(read.temperatures_c)
    assert "NC" not in read.rails_mw
    assert parse_line(AGX_ORIN_JETPACK_7).cores[8:] == (None,) * 4


def test_a_stamp_comes_before_the_lines_own_date_which_is_local_time() -> None:
    assert parse_line("1790000000.25 " + THOR_KIT).time_s == 1790000000.25
    assert time.strftime("%m-%d-%Y %H:%M:%S", time.localtime(parse_line(THOR_KIT).time_s)) == "07-02-2026 13:45:44"
    with pytest.raises(TegrastatsError, match="no time") as caught:
        parse_line(THOR_KIT.partition(" ")[2].partition(" ")[2])
    assert "kittiwake power" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "RAM …MB is missing"),
        ("tegrastats: command not found", "RAM …MB is missing"),
        (ORIN_NANO_JETPACK_6[:60], "CPU […] is missing"),
        (ORIN_NANO_JETPACK_6.replace("38%@1497", "38@1497"), "a core reads '38@1497'"),
        (ORIN_NANO_JETPACK_6.replace("10-08-2026", "13-08-2026"), "13-08-2026 04:35:02 does not exist"),
    ],
)
def test_what_is_no_line_is_said(line: str, message: str) -> None:
    with pytest.raises(TegrastatsError, match=message.replace("[", r"\[")):
        parse_line(line)


@st.composite
def damaged_lines(draw: st.DrawFn) -> str:
    """A recorded line with a part cut out and something else in its place."""
    line = draw(st.sampled_from(RECORDED))
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(line))] * 2)))
    pieces = st.text(max_size=12) | st.sampled_from(
        ["%", "@", "[", "]", "C/", "mW/", " RAM 1/2MB ", " CPU [off] ", "-"]
    )
    return line[:first] + draw(pieces) + line[last:]


@given(st.one_of(st.text(max_size=200), damaged_lines()))
def test_garbage_raises_nothing_but_the_own_error(line: str) -> None:
    try:
        read = parse_line(line)
    except TegrastatsError:
        return
    assert read.ram_used_mb >= 0
    assert all(isinstance(power, int) for power in read.rails_mw.values())


@given(
    powers=st.lists(st.integers(0, 100_000), min_size=1, max_size=30),
    cuts=st.tuples(*[st.floats(-5, 35)] * 3).map(sorted),
)
def test_energy_adds_up_over_windows(powers: list[int], cuts: list[float]) -> None:
    samples = [sample(float(i), power) for i, power in enumerate(powers)]
    begin, middle, end = cuts
    parts = energy_j(samples, begin, middle, ["VDD_IN"]) + energy_j(samples, middle, end, ["VDD_IN"])
    assert energy_j(samples, begin, end, ["VDD_IN"]) == pytest.approx(parts, abs=1e-6)
    assert 0 <= parts <= max(powers) / 1000 * (end - begin) + 1e-6


@given(times=st.lists(st.floats(0, 100), min_size=2, max_size=20, unique=True).map(sorted), slope=st.integers(0, 500))
def test_energy_of_a_ramp_is_its_closed_form(times: list[float], slope: int) -> None:
    """Power 3 W + slope·t is linear, so that the trapezoids are exact wherever the samples stand."""
    samples = [replace(sample(t, 0), rails_mw={"VDD_IN": 3000 + slope * t}) for t in times]
    begin, end = times[0], times[-1]
    closed = 3 * (end - begin) + slope / 1000 * (end**2 - begin**2) / 2
    assert energy_j(samples, begin, end, ["VDD_IN"]) == pytest.approx(closed, rel=1e-6, abs=1e-6)


def test_energy_of_a_window_is_what_scipy_integrates_on_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    times, powers = np.cumsum(rng.uniform(0.05, 0.2, 200)), rng.integers(4000, 20000, 200)
    samples = [sample(float(t), int(p)) for t, p in zip(times, powers, strict=True)]
    grid = np.linspace(3.3, 12.7, 400_001)
    expected = trapezoid(np.interp(grid, times, powers / 1000), grid)
    assert energy_j(samples, 3.3, 12.7, ["VDD_IN"]) == pytest.approx(float(expected), rel=1e-6)


def test_pinned_clocks_that_fall_are_throttling() -> None:
    held = throttling([(612, 99), (607, 99), (612, 3)], pinned=True)  # 99.2 %: wander, not throttling
    assert held is not None
    assert (held.reference_mhz, held.lowest_mhz, held.percent, held.judged) == (612, 607, 0.0, 3)
    fell = throttling([(612, 99), (420, 99), (420, None), (612, 5), (0, 0)], pinned=True)
    assert fell is not None
    assert (fell.lowest_mhz, fell.percent, fell.judged) == (420, 50.0, 4)


def test_free_clocks_are_judged_under_load_alone() -> None:
    idle_then_busy = [(306, 2), (306, 40), (612, 99), (612, 97)]
    found = throttling(idle_then_busy, pinned=False)
    assert found is not None
    assert (found.percent, found.judged) == (0.0, 2)
    found = throttling([*idle_then_busy, (510, 98), (510, 99)], pinned=False)
    assert found is not None
    assert found.percent == 50.0


def test_what_cannot_be_told_is_not_called_zero() -> None:
    assert throttling([], pinned=True) is None
    assert throttling([(0, 99)], pinned=True) is None
    assert throttling([(314, None), (314, None)], pinned=False) is None
    thor = [parse_line(THOR_KIT, float(t)) for t in range(4)]
    assert summarize(thor, 0, 3).gpu is None
    assert summarize(thor, 0, 3).gpu_percent is None


def test_a_log_is_summarized_over_its_window(tmp_path: Path) -> None:
    log = tmp_path / "tegrastats.log"
    idle = ORIN_NANO_JETPACK_6.replace("99%@[612]", "0%@[305]").replace("VDD_IN 16321mW", "VDD_IN 5251mW")
    hot = ORIN_NANO_JETPACK_6.replace("tj@58.312C", "tj@97.5C").replace("99%@[612]", "99%@[510]")
    lines = [idle, idle, ORIN_NANO_JETPACK_6, hot, ORIN_NANO_JETPACK_6, idle]
    log.write_text("".join(f"{1790000000 + i}.5 {line}\n" for i, line in enumerate(lines)))
    read = summarize(read_log(log), 1790000002.0, 1790000005.0)
    assert (read.grammar, read.samples, read.duration_s, read.rails) == ("JetPack 6, Orin", 3, 3.0, ("VDD_IN",))
    # Two seconds at 16.321 W, and half a second at each end on the way to the idle 5.251 W.
    assert read.energy_j == pytest.approx(2 * 16.321 + 2 * 0.5 * (16.321 + (16.321 + 5.251) / 2) / 2)
    assert read.mean_w == pytest.approx(read.energy_j / 3)
    assert read.peak_w == 16.321
    assert read.temperatures_c["tj"] == (58.312, 97.5, 58.312)
    assert read.gpu_percent == 99
    assert read.gpu is not None
    assert (read.gpu.reference_mhz, read.gpu.lowest_mhz, read.gpu.percent) == (612, 510, pytest.approx(100 / 3))


def test_a_window_with_too_few_samples_is_refused(tmp_path: Path) -> None:
    samples = [sample(float(t), 5000) for t in range(5)]
    with pytest.raises(TegrastatsError, match=r"1 of 5 samples lie in the 0\.5 s"):
        summarize(samples, 1.9, 2.4)
    with pytest.raises(TegrastatsError, match="no energy without samples"):
        energy_j([], 0, 1, ["VDD_IN"])
    with pytest.raises(TegrastatsError, match="a line has no rail VIN"):
        energy_j(samples, 0, 1, ["VIN"])
    with pytest.raises(TegrastatsError, match="no rail of the line is the board's total; it has VDD_SOC"):
        total_rails(replace(samples[0], rails_mw={"VDD_SOC": 1}))
    with pytest.raises(TegrastatsError, match="No such file"):
        read_log(tmp_path / "none.log")
    (tmp_path / "bad.log").write_text(f"1790000000.5 {THOR_KIT}\n\nnonsense\n")
    with pytest.raises(TegrastatsError, match=r"bad\.log, line 3: not a line of tegrastats"):
        read_log(tmp_path / "bad.log")
