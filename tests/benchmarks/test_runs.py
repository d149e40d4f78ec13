"""Flying in processes: order, resuming, and both methods on a small ground."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import runs
from baselines.pilot import Ncc
from flights import UPDATES, FlightPlan, plan_flight
from journeys import Journey
from places import Place, Raster
from scoring import Track

PAIRS = (("2009-01-01", "2015-01-01"), ("2015-01-01", "2009-01-01"))


def plans(n: int) -> list[FlightPlan]:
    area = (0.0, 0.0, 2000.0, 2000.0)
    return [plan_flight(PAIRS, index=i, footprint_m=160.0, area=area, seed=1) for i in range(n)]


class Echo:
    """A method whose errors are its flight's number; it leaves a mark for each flight that it flew."""

    def __init__(self, marks: Path) -> None:
        self._marks = marks

    def __call__(self, plan: FlightPlan) -> Track:
        (self._marks / str(plan.index)).touch()
        column = np.full(UPDATES, float(plan.index))
        off = np.stack([column, 0 * column], axis=1)
        return Track((plan.map_date, plan.query_date), off, column > 2, column, column, column, event=plan.index)


def test_tracks_come_in_order_and_finished_batches_are_not_flown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setattr(runs, "CACHE", tmp_path)
    monkeypatch.setattr(runs, "BATCH", 3)
    # Threads stand in for the processes, which could not import this file.
    monkeypatch.setattr(runs, "one_core_pool", _thread_pool)
    first = runs.fly_all(lambda: Echo(marks), plans(3), key="k", processes=2, title="")
    assert len(list(marks.iterdir())) == 3
    tracks = runs.fly_all(lambda: Echo(marks), plans(6), key="k", processes=2, title="")
    assert [track.error_m[0] for track in tracks] == [0, 1, 2, 3, 4, 5]
    assert [track.pair for track in tracks] == [PAIRS[i % 2] for i in range(6)]
    assert tracks[4].converged.dtype == bool and tracks[4].converged.all()
    np.testing.assert_array_equal(first[1].error_m, tracks[1].error_m)
    assert [track.event for track in tracks] == [0, 1, 2, 3, 4, 5]
    for mark in marks.iterdir():
        mark.unlink()
    runs.fly_all(_nothing_to_fly, plans(6), key="k", processes=2, title="")
    assert not list(marks.iterdir())
    runs.fly_all(lambda: Echo(marks), plans(3), key="another", processes=2, title="")
    assert len(list(marks.iterdir())) == 3


def test_processes_hold_one_core_each() -> None:
    with runs.one_core_pool(2) as pool:
        cores = pool.submit(_cores).result()
    assert cores in (None, 1)


def test_ncc_flies_where_its_likelihood_was_learned_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CACHE", tmp_path)
    monkeypatch.setattr(runs, "one_core_pool", _thread_pool)
    rng = np.random.default_rng(0)
    ground = np.kron(rng.random((25, 25)), np.ones((8, 8))).astype(np.float32)
    dates = ("2008-01-01", "2009-01-01", "2014-01-01", "2015-01-01")
    rasters = {
        date: Raster((0.8 * ground + 0.2 * rng.random(ground.shape)).astype(np.float32), 0.0, 1000.0, 5.0, sha256=date)
        for date in dates
    }
    place = Place("made", rasters, (("2009-01-01", "2015-01-01"),))
    plan = plan_flight(place.pairs, index=0, footprint_m=160.0, area=place.common_area, seed=1)
    other = (rasters["2008-01-01"], rasters["2014-01-01"])
    examples = {frozenset(place.pairs[0]): (other, other[::-1])}
    likelihoods = runs.calibrations(examples, 160.0, fold=1, seed=1, processes=1)
    assert set(likelihoods) == {frozenset(("2009-01-01", "2015-01-01"))}
    track = Journey(Ncc(place, likelihoods), place)(plan)
    assert track.declared is not None and np.median(track.error_m[track.since]) < 20
    assert np.isnan(track.radius95_m).all() and (track.seconds > 0).all()


def test_keys_follow_code_and_data(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("a = 1\n")
    before = runs.code_hash([file])
    file.write_text("a = 2\n")
    assert runs.code_hash([file]) != before
    assert runs.key_of("x", 1) != runs.key_of("x", 2)
    assert all(path.exists() for path in (*runs.baseline_code(), *runs.product_code()))


def _nothing_to_fly() -> Echo:
    raise AssertionError("every batch is in the cache")


def _cores() -> int | None:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


class _thread_pool:
    """Stands where a pool of processes would, in this process."""

    def __init__(self, processes: int, prepare: object = None, *args: object) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._pool = ThreadPoolExecutor(1)
        if callable(prepare):
            prepare(*args)

    def __enter__(self) -> object:
        return self._pool.__enter__()

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()


POOL = """
import os, sys, time
import runs

if __name__ == "__main__":
    with runs.one_core_pool(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
        time.sleep(60)
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    environment = os.environ | {"PYTHONPATH": str(Path(runs.__file__).parent)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        workers = parent.stdout.readline().split()
        parent.kill()
    assert workers
    deadline = time.monotonic() + 20
    while (left := [pid for pid in workers if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _runs(pid: str) -> bool:
    """Whether a process is there, and is more than its parent's unread exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
