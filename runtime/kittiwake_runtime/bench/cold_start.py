"""What only a fresh process shows: how long it takes to the first result, and how much memory that takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kittiwake_runtime.errors import EngineError

# As an application begins; nothing of this project is imported before the clock runs.
_PROGRAM = """
import json, sys, time
order = json.loads(sys.argv[1])
began = time.perf_counter()
from kittiwake_runtime import Bundle, open_engine
imported = time.perf_counter()
bundle = Bundle.open(order["bundle"])
engine = open_engine(bundle, order["device"], order["precision"], "require", order["threads"])
opened = time.perf_counter()
import numpy as np
sizes = {name: limits.typical for name, limits in bundle.dims.items()}
inputs = {s.name: np.zeros([sizes.get(n, n) for n in s.shape], s.dtype) for s in bundle.inputs}
made = time.perf_counter()
engine.infer(inputs)
inferred = time.perf_counter()
from kittiwake_runtime.machine import peak_rss_mb
print(json.dumps([imported - began, opened - imported, inferred - made, peak_rss_mb()]))
"""


@dataclass(frozen=True)
class ColdStart:
    """A fresh process that imports the runtime, opens a bundle and infers once, at the manifest's typical sizes.

    Args:
        import_s: ``from kittiwake_runtime import Bundle, open_engine``.
        load_s: the bundle's hashes checked, the backend imported, the network loaded.
        first_inference_s: the first one, which allocates and on a GPU compiles.
        peak_rss_mb: the process's largest resident memory, 10^6 bytes; memory of a GPU's own is not in it. None where
            the system doesn't tell.
    """

    import_s: float
    load_s: float
    first_inference_s: float
    peak_rss_mb: float | None

    @property
    def first_result_s(self) -> float:
        """From the start of the import to the first result."""
        return self.import_s + self.load_s + self.first_inference_s


def start_cold(bundle: Path, device: str, precision: str, threads: int | None = None) -> ColdStart:
    """Start a process and measure within it.

    Args:
        bundle: its folder.
        device: as for ``open_engine``, but "auto".
        precision: of a variant.
        threads: of the CPU.

    Raises:
        EngineError: the process failed; its last words are in the message.
    """
    order = {"bundle": str(bundle), "device": device, "precision": precision, "threads": threads}
    command = [sys.executable, "-c", _PROGRAM, json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise EngineError(f"{bundle}: a fresh process can't run it on {device} in {precision}: {last}")
    return ColdStart(*json.loads(done.stdout.splitlines()[-1]))
