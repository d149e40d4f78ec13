"""tegrastats, NVIDIA's monitor of a Jetson: its lines, and a run's energy, temperatures and throttling.

Three grammars are known, each from lines that boards printed (tests/runtime/test_tegrastats.py has them):

    JetPack 6, Orin    GR3D_FREQ 99%@[612]       tj@58.3C                VDD_IN 16321mW/11204mW         now/average
    JetPack 7, Orin    GR3D_FREQ 0%@[0,0]        tj@50.7C/50.7C          VDD_IN 9761mW/9761mW/9761mW    now/average/peak
    JetPack 7, Thor    GR3D_FREQ @[314,314,314]  soc012@34.4C[/34.4C]    VIN 19780mW/19780mW[/19780mW]  often no load

To a user who is not root tegrastats tells less: no clock of the GPU, on Thor nothing of the GPU at all. What a line
does not say is None or empty here, never zero.
"""

from __future__ import annotations

import enum
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from kittiwake_runtime.errors import KittiwakeError

# Rails whose sum is what the board draws, the first that a line has. NVIDIA's developer guides, chapters on power:
# VDD_IN is the module's input (Orin Nano, Orin NX), VIN that of Thor's whole kit. AGX Orin and Thor's module have three
# inputs; VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0 and must not be counted twice.
TOTAL_RAILS = (
    ("VDD_IN",),
    ("VIN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
)

BUSY_PERCENT = 90  # a processor that is busier wants its highest clock
THROTTLED_BELOW = 0.97  # of the reference clock; pinned clocks are seen to wander by a percent

_STAMP = re.compile(r"\s*(\d{9,11}\.\d{1,9}) ")
_DATE = re.compile(r"\s*(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d) ")
_RAM = re.compile(r"(?<!\S)RAM (\d{1,9})/(\d{1,9})MB")
_CPU = re.compile(r"(?<!\S)CPU \[([^\]]*)\](?:@(\d{1,6}))?(?!\S)")
_CORE = re.compile(r"(\d{1,3})%(?:@(\d{1,6}))?")
_GPU = re.compile(r"(?<!\S)GR3D_FREQ (?:(\d{1,3})%)?(?:@(?:\[(\d{1,6}(?:,\d{1,6})*)\]|(\d{1,6})))?(?!\S)")
_EMC = re.compile(r"(?<!\S)EMC_FREQ (?:\d{1,3}%)?@(\d{1,6})(?!\S)")
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d{1,4}(?:\.\d+)?)C(/-?\d{1,4}(?:\.\d+)?C)?(?!\S)")
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (-?\d{1,8})mW(?:/-?\d{1,8}(?:mW)?)?(/-?\d{1,8}mW)?(?!\S)")

_COLDEST_SENSOR_C = -55.0  # a sensor whose part is powered down reads −256 °C
_NOT_CONNECTED = "NC"


class TegrastatsError(KittiwakeError):
    """Output of tegrastats can't be read, or doesn't hold what was asked of it."""


class Grammar(enum.Enum):
    """Which kind of line it is."""

    ORIN_JETPACK_6 = "JetPack 6, Orin"
    ORIN_JETPACK_7 = "JetPack 7, Orin"
    THOR = "JetPack 7, Thor"


@dataclass(frozen=True)
class Core:
    """A processor core that is on.

    Args:
        load_percent: of its present clock.
        clock_mhz: its clock; None where the line has none.
    """

    load_percent: int
    clock_mhz: int | None


@dataclass(frozen=True)
class Sample:
    """One line of tegrastats.

    Args:
        time_s: when it was printed, in seconds since 1970 UTC.
        grammar: which kind of line it is.
        ram_used_mb: memory in use, the GPU's included.
        ram_total_mb: memory there is.
        cores: processor cores; None for one that is off.
        gpu_percent: load of the GPU; None where the line has none.
        gpu_mhz: clock of each of the GPU's clusters; empty where the line has none, 0 for one that is powered down.
        memory_mhz: clock of the memory; None where the line has none.
        temperatures_c: by sensor, lower case; sensors of parts that are off are left out.
        rails_mw: power now, by rail.
    """

    time_s: float
    grammar: Grammar
    ram_used_mb: int
    ram_total_mb: int
    cores: tuple[Core | None, ...]
    gpu_percent: int | None
    gpu_mhz: tuple[int, ...]
    memory_mhz: int | None
    temperatures_c: Mapping[str, float]
    rails_mw: Mapping[str, int]


@dataclass(frozen=True)
class Throttling:
    """How often a processor that wanted its highest clock did not have it.

    Args:
        reference_mhz: the clock that it should have had.
        lowest_mhz: the lowest that it had.
        percent: share of the judged readings with a lower clock; 0 is no throttling.
        judged: how many readings were judged.
    """

    reference_mhz: int
    lowest_mhz: int
    percent: float
    judged: int


@dataclass(frozen=True)
class Summary:
    """What a board did between two moments.

    Args:
        grammar: kind of its lines.
        samples: lines in the window.
        duration_s: the window's length.
        rails: rails that were added up.
        energy_j: energy of these rails over the window.
        mean_w: energy over duration.
        peak_w: the largest power that a line shows.
        temperatures_c: by sensor, the first, the largest and the last reading.
        ram_peak_mb: most memory in use, everything on the board included.
        gpu_percent: median load of the GPU; None where no line tells it.
        gpu: throttling of the GPU; None where it can't be told.
        cpu: throttling of the processor; None where it can't be told.
    """

    grammar: str
    samples: int
    duration_s: float
    rails: tuple[str, ...]
    energy_j: float
    mean_w: float
    peak_w: float
    temperatures_c: Mapping[str, tuple[float, float, float]]
    ram_peak_mb: int
    gpu_percent: float | None
    gpu: Throttling | None
    cpu: Throttling | None


def parse_line(line: str, time_s: float | None = None) -> Sample:
    """Read one line.

    Args:
        line: the line. Seconds since 1970 may stand before it, as in logs of `kittiwake power`.
        time_s: when it was printed; None takes it from the line, whose own date is local time in whole seconds.

    Raises:
        TegrastatsError: it is no line of tegrastats, or has no time.
    """
    memory, processor = _RAM.search(line), _CPU.search(line)
    if not memory or not processor:
        missing = "CPU […]" if memory else "RAM …MB"
        shown = line.strip() if len(line.strip()) <= 60 else line.strip()[:57] + "..."
        raise TegrastatsError(f"not a line of tegrastats, {missing} is missing: {shown!r}")
    gpu, emc = _GPU.search(line), _EMC.search(line)
    temperatures, rails = _TEMPERATURE.findall(line), _RAIL.findall(line)
    has_peaks = any(peak for *_, peak in (*temperatures, *rails))
    names = {name for name, *_ in (*temperatures, *rails)}
    clocks = (gpu[2] or gpu[3] or "") if gpu else ""
    return Sample(
        time_s=_time_of(line) if time_s is None else time_s,
        grammar=_grammar(names, has_peaks),
        ram_used_mb=int(memory[1]),
        ram_total_mb=int(memory[2]),
        cores=tuple(_core(text, processor[2]) for text in processor[1].split(",")),
        gpu_percent=int(gpu[1]) if gpu and gpu[1] else None,
        gpu_mhz=tuple(int(clock) for clock in clocks.split(",") if clock),
        memory_mhz=int(emc[1]) if emc else None,
        temperatures_c={name.lower(): float(now) for name, now, _ in temperatures if float(now) > _COLDEST_SENSOR_C},
        rails_mw={name: int(now) for name, now, _ in rails if name != _NOT_CONNECTED},
    )


def read_log(path: Path) -> list[Sample]:
    """Read a log, ordered by time; empty lines are passed over.

    Raises:
        TegrastatsError: it can't be read, or a line of it, which is named.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise TegrastatsError(f"{path}: {error.strerror}") from error
    samples = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                samples.append(parse_line(line))
            except TegrastatsError as error:
                raise TegrastatsError(f"{path}, line {number}: {error.message}", error.hint) from error
    return sorted(samples, key=lambda sample: sample.time_s)


def total_rails(sample: Sample) -> tuple[str, ...]:
    """The rails whose sum is what the board draws.

    Raises:
        TegrastatsError: the line has no such rails.
    """
    for rails in TOTAL_RAILS:
        if all(rail in sample.rails_mw for rail in rails):
            return rails
    found = ", ".join(sample.rails_mw) or "none"
    raise TegrastatsError(f"no rail of the line is the board's total; it has {found}, expected VDD_IN or VIN")


def energy_j(samples: Sequence[Sample], began_s: float, ended_s: float, rails: Sequence[str]) -> float:
    """Energy of some rails between two moments: the integral of their power, linear from each sample to the next.

    Args:
        samples: ordered by time; before the first and after the last the power counts as theirs.
        began_s: the first moment, in seconds since 1970 UTC.
        ended_s: the last moment, not before the first.
        rails: what is added up.

    Raises:
        TegrastatsError: there are no samples, or one lacks a rail.
    """
    if not samples:
        raise TegrastatsError("no energy without samples")
    times = [sample.time_s for sample in samples]
    powers = [power_w(sample, rails) for sample in samples]

    def power_at(moment: float) -> float:
        after = bisect_left(times, moment)
        if after in (0, len(times)):
            return powers[0] if after == 0 else powers[-1]
        share = (moment - times[after - 1]) / (times[after] - times[after - 1])
        return powers[after - 1] + share * (powers[after] - powers[after - 1])

    inside = slice(bisect_right(times, began_s), bisect_left(times, ended_s))
    moments = [began_s, *times[inside], ended_s]
    curve = [power_at(began_s), *powers[inside], power_at(ended_s)]
    steps = zip(moments, moments[1:], curve, curve[1:], strict=False)
    return sum((then - now) * (power + power_then) / 2 for now, then, power, power_then in steps)


def power_w(sample: Sample, rails: Sequence[str]) -> float:
    """Power of some rails together.

    Raises:
        TegrastatsError: the sample lacks one.
    """
    try:
        return sum(sample.rails_mw[rail] for rail in rails) / 1000
    except KeyError as error:
        raise TegrastatsError(f"a line has no rail {error.args[0]}, which others have") from error


def throttling(readings: Iterable[tuple[int, int | None]], pinned: bool) -> Throttling | None:
    """How often a clock was lower than it should have been.

    The reference is the highest clock of all readings. With pinned clocks every lower one is judged to be throttling;
    else only those at a load of 90 % and more, since idle processors lower their clocks by themselves.

    Args:
        readings: clock in MHz (0 when powered down, which is not judged) and load in percent, None where it is unknown.
        pinned: whether the clocks were pinned to the highest of the power mode (`jetson_clocks`).

    Returns:
        None when no reading can be judged.
    """
    running = [(clock, load) for clock, load in readings if clock > 0]
    judged = [clock for clock, load in running if pinned or (load is not None and load >= BUSY_PERCENT)]
    if not judged:
        return None
    reference = max(clock for clock, _ in running)
    slow = sum(clock < THROTTLED_BELOW * reference for clock in judged)
    return Throttling(reference, min(judged), 100 * slow / len(judged), len(judged))


def summarize(samples: Sequence[Sample], began_s: float, ended_s: float, pinned: bool = False) -> Summary:
    """What a board did between two moments.

    Args:
        samples: ordered by time.
        began_s: the first moment, in seconds since 1970 UTC.
        ended_s: the last moment.
        pinned: whether clocks were pinned; see :func:`throttling`.

    Raises:
        TegrastatsError: fewer than two samples lie in the window, or they lack the board's total.
    """
    inside = [sample for sample in samples if began_s <= sample.time_s <= ended_s]
    if len(inside) < 2:
        span = f"the {max(ended_s - began_s, 0):.1f} s"
        text = f"{len(inside)} of {len(samples)} samples lie in {span}; expected two or more"
        raise TegrastatsError(text, "measure for longer, or sample more often")
    rails = total_rails(inside[0])
    energy = energy_j(samples, began_s, ended_s, rails)
    loads = [sample.gpu_percent for sample in inside if sample.gpu_percent is not None]
    cores = [core for sample in inside for core in sample.cores if core is not None]
    return Summary(
        grammar=inside[0].grammar.value,
        samples=len(inside),
        duration_s=ended_s - began_s,
        rails=rails,
        energy_j=energy,
        mean_w=energy / (ended_s - began_s),
        peak_w=max(power_w(sample, rails) for sample in inside),
        temperatures_c=_temperatures(inside),
        ram_peak_mb=max(sample.ram_used_mb for sample in inside),
        gpu_percent=median(loads) if loads else None,
        gpu=throttling([(max(sample.gpu_mhz, default=0), sample.gpu_percent) for sample in inside], pinned),
        cpu=throttling([(core.clock_mhz or 0, core.load_percent) for core in cores], pinned),
    )


def _temperatures(samples: Sequence[Sample]) -> dict[str, tuple[float, float, float]]:
    """First, largest and last reading of every sensor; a part may be powered up late."""
    names = dict.fromkeys(name for sample in samples for name in sample.temperatures_c)
    readings = {name: [s.temperatures_c[name] for s in samples if name in s.temperatures_c] for name in names}
    return {name: (values[0], max(values), values[-1]) for name, values in readings.items()}


def _grammar(names: set[str], has_peaks: bool) -> Grammar:
    if names & {"soc012", "soc345", "VDD_CPU_SOC_MSS"}:
        return Grammar.THOR
    return Grammar.ORIN_JETPACK_7 if has_peaks else Grammar.ORIN_JETPACK_6


def _core(text: str, common_mhz: str | None) -> Core | None:
    """A core's part of CPU […]; older lines have one clock for all behind the bracket."""
    if text.strip() == "off":
        return None
    match = _CORE.fullmatch(text.strip())
    if not match:
        raise TegrastatsError(f"a core reads {text.strip()[:20]!r}; expected one like 7%@1728, or off")
    clock = match[2] or common_mhz
    return Core(int(match[1]), int(clock) if clock else None)


def _time_of(line: str) -> float:
    if stamp := _STAMP.match(line):
        return float(stamp[1])
    if date := _DATE.match(line):
        try:
            return time.mktime(time.strptime(date[1], "%m-%d-%Y %H:%M:%S"))
        except (ValueError, OverflowError) as error:
            raise TegrastatsError(f"the date {date[1]} does not exist") from error
    raise TegrastatsError("the line has no time", "record it with `kittiwake power`, which puts one before each line")
