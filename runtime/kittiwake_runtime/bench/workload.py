"""What is done with a network in one go: what becomes its inputs (pre) and what becomes of its outputs (post).

A task of the runtime's says it in a function from a bundle to a :class:`Workload`; a package adds its own through the
entry-point group ``kittiwake.workloads``, named as the task. A network without one is measured alone, on random
inputs of its typical sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.manifest import TensorSpec

GROUP = "kittiwake.workloads"
_BUILT_IN = {"localization.descriptor": ("kittiwake_runtime.localization.workload", "descriptor_workload")}
_SEED = 0

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """One go.

    Args:
        text: what it is, for people; runs of different texts aren't compared.
        pre: makes the inputs, as for a real frame; called once a run.
        post: uses the outputs; None when there is nothing to it.
        is_whole: whether ``pre`` is what an application does. Otherwise it hands out ready arrays, and neither it nor
            an end-to-end time is reported.
    """

    text: str
    pre: Callable[[], Arrays]
    post: Callable[[Arrays], object] | None = None
    is_whole: bool = True


def find_workload(bundle: Bundle) -> Workload:
    """The workload of a bundle's task, or its network alone."""
    if bundle.task in _BUILT_IN:
        module, name = _BUILT_IN[bundle.task]
        made: Workload = getattr(import_module(module), name)(bundle)
        return made
    for point in entry_points(group=GROUP):
        if point.name == bundle.task:
            registered: Workload = point.load()(bundle)
            return registered
    return network_alone(bundle)


def network_alone(bundle: Bundle) -> Workload:
    """Random inputs at the typical sizes of the manifest: floats in [0, 1), whole numbers of 0 and 1."""
    rng = np.random.default_rng(_SEED)
    inputs = {spec.name: _values(spec, bundle, rng) for spec in bundle.inputs}
    shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in inputs.items())
    return Workload(f"the network alone, {shapes}", lambda: inputs, is_whole=False)


def _values(spec: TensorSpec, bundle: Bundle, rng: np.random.Generator) -> Any:
    shape = [bundle.dims[size].typical if isinstance(size, str) else size for size in spec.shape]
    if np.dtype(spec.dtype).kind == "f":
        return rng.random(shape, np.float32).astype(spec.dtype)
    return rng.integers(0, 2, shape).astype(spec.dtype)
