"""A benchmark that is told to end: it ends what it started, as a row's context managers would have."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_terminated_row_closes_what_it_opened(tmp_path: Path) -> None:
    script = """
        import sys, time
        from contextlib import ExitStack
        from pathlib import Path
        from by_rows import measure_rows, parser_of

        def wait(name):
            with ExitStack() as opened:
                opened.callback(Path("closed").touch)
                Path("open").touch()
                time.sleep(60)

        options = parser_of(None, {"wait": "for ever"}, ["wait"]).parse_args(["--output", "."])
        sys.exit(measure_rows(options, wait, benchmark="demo", seed=0))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, cwd=tmp_path, env={"PYTHONPATH": str(BENCHMARKS)}) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "open").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert (tmp_path / "closed").exists()
    assert not (tmp_path / "demo.json").exists()
