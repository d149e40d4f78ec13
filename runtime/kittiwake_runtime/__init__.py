"""Runs model bundles, and what is built on them, on a laptop, a server or a Jetson: numpy, and no torch.

    from kittiwake_runtime import Bundle, open_engine

    with open_engine(Bundle.open("NAME")) as engine:
        print(engine.report)
        outputs = engine.infer({"view": views})

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kittiwake_runtime.errors import BundleError, EngineError, FrameError, KittiwakeError, MapError

if TYPE_CHECKING:
    from kittiwake_runtime.bundle import Bundle
    from kittiwake_runtime.engines.base import Engine, EngineReport
    from kittiwake_runtime.engines.select import open_engine

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "Engine",
    "EngineError",
    "EngineReport",
    "FrameError",
    "KittiwakeError",
    "MapError",
    "open_engine",
]

_LAZY = {
    "Bundle": "kittiwake_runtime.bundle",
    "Engine": "kittiwake_runtime.engines.base",
    "EngineReport": "kittiwake_runtime.engines.base",
    "open_engine": "kittiwake_runtime.engines.select",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
