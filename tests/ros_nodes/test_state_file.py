"""The belief on disk: written whole, read back, widened with age, refused when it is something else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kittiwake_ros.state_file import Remembered, load, restore, save
from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.outputs import Fix

T0 = 1_750_000_000.0


def fix() -> Fix:
    return Fix(
        time_s=T0, easting_m=500_000.0, northing_m=6_650_000.0, heading_rad=0.3, covariance=np.eye(2) * 25.0,
        position_std_m=7.0, heading_std_rad=0.05, state="converged", source="map_matched", age_s=0.0,
        distance_since_match_m=0.0, elsewhere=1e-6, evidence=3.0, reason="", grid=Grid.from_crs("EPSG:32633"),
    )  # fmt: skip


class Recorder:
    """Stands where a localizer does."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def set_prior(self, *values: float) -> None:
        self.calls.append(values)

    def set_heading(self, *values: float) -> None:
        self.calls.append(values)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "belief.json"
    save(path, fix())
    kept = load(path)
    assert kept == Remembered.of(fix())
    assert (kept.lat_deg, kept.lon_deg) == pytest.approx(fix().wgs84())
    assert kept.radius95_m == pytest.approx(5 * 2.4477, rel=0.02)
    assert [file.name for file in path.parent.iterdir()] == ["belief.json"]
    assert load(tmp_path / "none.json") is None


@pytest.mark.parametrize("age_s", [0.5, 60.0])
def test_it_is_widened_by_what_may_have_been_flown(age_s: float) -> None:
    localizer = Recorder()
    said = restore(localizer, Remembered.of(fix()), T0 + age_s, max_age_s=600, max_speed_m_s=25.0)
    lat, lon, radius = localizer.calls[0]
    assert (lat, lon) == pytest.approx(fix().wgs84())
    assert radius == pytest.approx(fix().radius95_m + 25.0 * age_s)
    assert f"{age_s:.1f} s old" in said
    assert len(localizer.calls) == (2 if age_s < 5 else 1), "after a minute it may head anywhere"
    if age_s < 5:
        assert localizer.calls[1] == pytest.approx((fix().yaw_deg(), math.degrees(0.05) + 7.5))


@pytest.mark.parametrize(("age_s", "said"), [(601.0, "601 s old"), (-3.0, "3 s in the future")])
def test_an_old_one_is_not_used(age_s: float, said: str) -> None:
    localizer = Recorder()
    assert said in restore(localizer, Remembered.of(fix()), T0 + age_s, max_age_s=600, max_speed_m_s=25.0)
    assert localizer.calls == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": "something"}', json.dumps({"format": "kittiwake-belief-1", "time_s": 1.0})],
)
def test_another_file_is_refused_with_the_hint_to_delete_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "belief.json"
    path.write_text(content)
    with pytest.raises(FrameError) as refused:
        load(path)
    assert str(path) in refused.value.hint


def test_numbers_that_are_no_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "belief.json"
    save(path, fix())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lat_deg": 123.0}))
    with pytest.raises(FrameError):
        load(path)
