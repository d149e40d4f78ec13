"""`python -m kittiwake_runtime` is `kittiwake`."""

from __future__ import annotations

import sys

from kittiwake_runtime.cli import main

sys.exit(main())
