"""The committed model bundles, one folder each; data only.

``ROOT / name`` is the bundle called ``name``; ``kittiwake_runtime.Bundle.open(name)`` finds it there.
"""

from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parent
