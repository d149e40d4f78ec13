"""On the CPU: what the engine adds to ONNX Runtime, what int8 gains and costs, and how a fresh process starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from results import Figure
from runs import CACHE, key_of

from engine_rows.subjects import DESCRIPTOR, subjects
from kittiwake_runtime.bench.cold_start import start_cold
from kittiwake_runtime.bench.measure import BLOCK, Contender, measure
from kittiwake_runtime.bench.statistics import median_interval
from kittiwake_runtime.bench.workload import Workload, network_alone
from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.onnxruntime import OnnxRuntimeEngine
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.machine import read_text

SAMPLES = 670
STARTS = 15
LEAST_QUERIES = 10_000
RATIO_BLOCKS = 40


def measure_overhead() -> list[Figure]:
    """``Engine.infer`` over the same session of ONNX Runtime called directly, one thread, three networks."""
    shares, notes = [], []
    for name, bundle in subjects().items():
        with open_engine(bundle, "cpu", "fp32", "require", threads=1) as engine:
            assert isinstance(engine, OnnxRuntimeEngine)
            raw_s, extra_s = _overhead(engine, network_alone(bundle))
        share = 100.0 * extra_s / raw_s
        shares.append((share, extra_s))
        notes.append(f"{name} {1e3 * raw_s:.3g} ms and {1e6 * extra_s:+.1f} us, {share:+.2f} %")
    worst, _ = max(shares, key=lambda entry: min(entry[0] / 3.0, entry[1] / 30e-6))
    note = f"the worst of three, batch of typical size: {'; '.join(notes)}; medians of differences of neighbouring runs"
    return [Figure("overhead.cpu", worst, "%", SAMPLES, None, "<= 3 % or 30 us", data=cpu_name(), note=note)]


def measure_int8(places: Path | None) -> list[Figure]:
    """The descriptor's int8 against its float32: time for 36 views on one thread, and recall in pairs.

    Args:
        places: prepared places to make and try the int8 network with, where the shipped bundle has none or was tried
            on too few queries.
    """
    bundle = _with_int8(places)
    with (
        open_engine(bundle, "cpu", "fp32", "require", threads=1) as reference,
        open_engine(bundle, "cpu", "int8", "require", threads=1) as quantized,
    ):
        workload = _views()
        contenders = [Contender("fp32", reference.infer, workload), Contender("int8", quantized.infer, workload)]
        taken = measure(contenders, RATIO_BLOCKS * BLOCK)
        seconds = {label: samples.stages["infer"] for label, samples in taken.items()}
    ratios = sorted(
        median(seconds["fp32"][i : i + BLOCK]) / median(seconds["int8"][i : i + BLOCK])
        for i in range(0, len(seconds["fp32"]), BLOCK)
    )
    note = (
        f"K = 36 views, one thread: {1e3 * median(seconds['fp32']):.1f} against {1e3 * median(seconds['int8']):.1f} ms;"
        f" float32 stay {', '.join(bundle.variants['int8'].float_nodes) or 'no products'}"
    )
    speedup = Figure("int8.cpu_speedup", median(ratios), "x", len(ratios), median_interval(ratios), ">= 1.8",
                     data=f"{cpu_name()}; bundle {bundle.sha256[:16]}", note=note)  # fmt: skip
    cost = bundle.variants["int8"].accuracy
    assert cost is not None  # export writes no int8 without it
    note = f"{cost.name}, {cost.split}: {cost.reference:.2f} to {cost.value:.2f} %, the same queries for both"
    drop = Figure("int8.recall_drop", cost.loss, "points", cost.n, cost.interval, "<= 0.5",
                  data=f"bundle {bundle.sha256[:16]}", note=note)  # fmt: skip
    return [speedup, drop]


def measure_open() -> list[Figure]:
    """Fresh processes: the import, the first result of the descriptor on the CPU, and the memory that takes."""
    bundle = Bundle.open(DESCRIPTOR)
    starts = [start_cold(bundle.root, "cpu", "fp32") for _ in range(STARTS)]
    data, note = f"{cpu_name()}; bundle {bundle.sha256[:16]}", "fresh processes, files in the page cache"
    first = "from the import to the result for 36 views, the interpreter's own start not counted; " + note

    def figure(id_: str, name: str, unit: str, bar: str, note: str) -> Figure:
        values = sorted(known(getattr(start, name)) for start in starts)
        return Figure(id_, median(values), unit, STARTS, median_interval(values), bar, data=data, note=note)

    return [
        figure("open.first_result_s", "first_result_s", "s", "<= 0.6", first),
        figure("open.rss_mb", "peak_rss_mb", "MB", "<= 150", note),
        figure("import.s", "import_s", "s", "<= 0.15", "from kittiwake_runtime import Bundle, open_engine"),
    ]


def cpu_name() -> str:
    """The processor, and whether it has the instructions that int8 gains by."""
    text = read_text(Path("/proc/cpuinfo"))
    name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "CPU")
    vnni = "VNNI" if "vnni" in text else "dot products" if "asimddp" in text else "neither VNNI nor dot products"
    return f"{name}, {vnni}"


def known(value: float | None) -> float:
    """A figure's value where the system tells it."""
    return float("nan") if value is None else value


def _overhead(engine: OnnxRuntimeEngine, workload: Workload) -> tuple[float, float]:
    """Median seconds of the engine's own session, and of the difference to it of the engine's run beside it.

    Another session of the same network would not do: its weights lie elsewhere in memory, and that alone can be more
    than what is measured here.
    """
    session: Any = engine._session
    names = [spec.name for spec in engine.bundle.outputs]

    def plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    taken = measure([Contender("engine", engine.infer, workload), Contender("plain", plain, workload)], SAMPLES)
    ours, theirs = (_block_medians(taken[label].stages["infer"]) for label in ("engine", "plain"))
    return median(theirs), median(a - b for a, b in zip(ours, theirs, strict=True))


def _block_medians(seconds: Sequence[float]) -> list[float]:
    return [median(seconds[i : i + BLOCK]) for i in range(0, len(seconds), BLOCK)]


def _views() -> Workload:
    """36 views of a picture of blurred noise, as the localizer turns them."""
    from kittiwake_runtime.bench.workload import find_workload

    whole = find_workload(Bundle.open(DESCRIPTOR))
    views = whole.pre()
    return Workload(whole.text, lambda: views, is_whole=False)


def _with_int8(places: Path | None) -> Bundle:
    """The shipped descriptor where its int8 was tried on enough queries; else one that is made now, and kept."""
    from kittiwake_export.errors import ExportError
    from kittiwake_export.export import add_variants

    shipped = Bundle.open(DESCRIPTOR)
    variant = shipped.variants.get("int8")
    if variant is not None and variant.accuracy is not None and variant.accuracy.n >= LEAST_QUERIES:
        return shipped
    if places is None:
        raise ExportError(
            f"{DESCRIPTOR} has no int8 that was tried on {LEAST_QUERIES} queries",
            "name prepared places: --places FOLDER",
        )
    folder = CACHE / "bundles" / key_of(shipped.sha256, str(places.resolve())) / DESCRIPTOR
    return Bundle.open(folder) if folder.exists() else add_variants(shipped, folder, ["int8"], places)
