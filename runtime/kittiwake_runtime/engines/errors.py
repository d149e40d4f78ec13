"""What can be wrong with an engine, for those who want to tell one kind from another."""

from __future__ import annotations

from kittiwake_runtime.errors import EngineError


class DeviceUnavailable(EngineError):
    """This machine can't run the network on the device that was asked for; another one may do."""


class WrongGpu(EngineError):
    """An engine was built for another kind of GPU."""


class WrongVersion(EngineError):
    """An engine was built by another version of TensorRT."""


class NoMemory(EngineError):
    """The GPU, or the machine, has too little memory."""


class BadPlugin(EngineError):
    """An operator needs a plug-in that can't be loaded."""


class DamagedEngine(EngineError):
    """A file is no engine, is cut short, or was altered after it was built."""
