"""For which sizes of its dynamic dimensions an engine is built: from the manifest, unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kittiwake_runtime.errors import EngineError
from kittiwake_runtime.manifest import DimRange, Manifest, TensorSpec

Sizes = Mapping[str, DimRange]


def profile_sizes(manifest: Manifest, given: Sizes | None = None) -> dict[str, DimRange]:
    """The range of every dynamic dimension of the inputs.

    Args:
        manifest: of the bundle. A dimension that it leaves unbounded goes up to its typical size, since an engine
            has to be built for some largest one.
        given: ranges that replace those.

    Raises:
        EngineError: a dimension that the bundle doesn't have, or a range outside the one that it has.
    """
    sizes = {name: DimRange(dim.min, dim.typical, dim.max or dim.typical) for name, dim in manifest.dims.items()}
    for name, wanted in (given or {}).items():
        if name not in sizes:
            known = ", ".join(sizes) or "none: all its shapes are fixed"
            raise EngineError(f"{manifest.name} has no size {name!r}; it has {known}")
        if wanted.min not in manifest.dims[name] or wanted.max is None or wanted.max not in manifest.dims[name]:
            raise EngineError(f"size {name} = {wanted} is outside what {manifest.name} takes: {manifest.dims[name]}")
        sizes[name] = wanted
    return sizes


def parse_sizes(words: Sequence[str]) -> dict[str, DimRange]:
    """Ranges from a command line: ``N=1:36:72`` is least, typical and largest, ``N=36`` all three.

    Raises:
        EngineError: a word of another form, or sizes that don't rise.
    """
    sizes = {}
    for word in words:
        name, _, numbers = word.partition("=")
        parts = numbers.split(":")
        if not all(part.isdecimal() for part in parts) or len(parts) not in (1, 3):
            raise EngineError(f"--size is {word!r}; expected NAME=SIZE or NAME=LEAST:TYPICAL:LARGEST", "as N=1:36:72")
        least, typical, largest = map(int, parts * (3 if len(parts) == 1 else 1))
        if not 1 <= least <= typical <= largest:
            raise EngineError(f"--size {word}: the sizes must rise from 1 on")
        sizes[name] = DimRange(least, typical, largest)
    return sizes


def shapes(spec: TensorSpec, sizes: Sizes) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The least, the typical and the largest shape of an input."""

    def shape(which: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else getattr(sizes[size], which) for size in spec.shape)

    return shape("min"), shape("typical"), shape("max")
