"""Frames against pyproj, geodesics and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.frames import (
    Enu,
    Grid,
    body_to_ned,
    utm_crs,
    wrap_angle,
    wrap_yaw_deg,
)

GEOD = pyproj.Geod(ellps="WGS84")
latitudes = st.floats(-79.0, 83.0)
longitudes = st.floats(-179.9, 179.9)
angles = st.floats(-20.0, 20.0)


def test_position_agrees_with_pyproj() -> None:
    grid = Grid.from_crs("EPSG:32633")
    lat, lon = np.array([0.5, 45.0, 60.0, 83.0]), np.array([12.2, 15.0, 17.9, 15.5])
    easting, northing = grid.from_wgs84(lat, lon)
    expected = pyproj.Proj(proj="utm", zone=33, ellps="WGS84")(lon, lat)
    np.testing.assert_allclose([easting, northing], expected, atol=1e-6)


@pytest.mark.parametrize("lon", [12.001, 17.999])
@pytest.mark.parametrize("lat", [60.0, -60.0])
def test_heading_and_position_at_a_zones_edge(lat: float, lon: float) -> None:
    grid = Grid.from_crs(utm_crs(lat, lon))
    east, north = (float(v) for v in grid.from_wgs84(lat, lon))
    assert abs(math.degrees(float(grid.convergence_rad(east, north)))) == pytest.approx(2.6, abs=0.01)
    for true_yaw in (0.0, 33.0, 90.0, 200.0, 359.0):
        heading = float(grid.heading_rad(true_yaw, east, north))
        scale = float(grid.scale_factor(east, north))
        there = (east + 100.0 * scale * math.cos(heading), north + 100.0 * scale * math.sin(heading))
        lat2, lon2 = (float(v) for v in grid.to_wgs84(*there))
        azimuth, _, distance = GEOD.inv(lon, lat, lon2, lat2)
        assert math.remainder(azimuth - true_yaw, 360.0) == pytest.approx(0.0, abs=2e-3)
        assert distance == pytest.approx(100.0, abs=1e-3)


@given(lat=latitudes, lon=longitudes, yaw=st.floats(0.0, 359.999))
def test_round_trips(lat: float, lon: float, yaw: float) -> None:
    grid = Grid.from_crs(utm_crs(lat, lon))
    east, north = grid.from_wgs84(lat, lon)
    back = grid.to_wgs84(east, north)
    assert float(back[0]) == pytest.approx(lat, abs=1e-8)
    assert math.remainder(float(back[1]) - lon, 360.0) == pytest.approx(0.0, abs=1e-7)
    again = float(grid.yaw_deg(grid.heading_rad(yaw, east, north), east, north))
    assert math.remainder(again - yaw, 360.0) == pytest.approx(0.0, abs=1e-9)


def test_outside_the_projection_is_nan() -> None:
    grid = Grid.from_crs(32633)
    assert np.isnan(grid.to_wgs84([1e12, 5e5], [0.0, 0.0])[0]).tolist() == [True, False]
    assert np.isnan(grid.convergence_rad(np.nan, 0.0))


@settings(max_examples=12)  # PROJ takes a fifth of a second for each
@given(lat=latitudes, lon=longitudes.map(lambda lon: round(lon, 6)))
def test_utm_zone_is_the_one_that_proj_would_pick(lat: float, lon: float) -> None:
    info = pyproj.database.query_utm_crs_info("WGS 84", pyproj.aoi.AreaOfInterest(lon, lat, lon, lat), contains=True)
    assert utm_crs(lat, lon)[5:] in {entry.code for entry in info}


@pytest.mark.parametrize(
    ("lat", "lon", "epsg"),
    [(60.0, 5.0, 32632), (78.0, 8.0, 32631), (78.0, 9.5, 32633), (78.0, 34.0, 32637), (0.0, 180.0, 32601)],
)
def test_utm_exceptions(lat: float, lon: float, epsg: int) -> None:
    assert utm_crs(lat, lon) == f"EPSG:{epsg}"


def test_utm_ends_near_the_poles() -> None:
    with pytest.raises(MapError, match="latitude 85"):
        utm_crs(85.0, 0.0)


@pytest.mark.parametrize(
    ("crs", "reason"),
    [
        (4326, "not projected"),
        (2263, "US survey foot"),
        (2053, "point west and south"),
        (3857, "Web Mercator"),
        (pyproj.CRS(3857).to_wkt("WKT1_GDAL"), "Web Mercator"),
        ("nonsense", "can't read the CRS"),
    ],
)
def test_a_grid_is_metric_east_and_north(crs: object, reason: str) -> None:
    with pytest.raises(MapError, match=reason):
        Grid.from_crs(crs)


@given(
    lat=st.floats(-90.0, 90.0),
    lon=longitudes,
    height=st.floats(-400.0, 9000.0),
    offset=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.floats(-500.0, 5000.0)),
)
def test_enu_agrees_with_proj_topocentric(
    lat: float, lon: float, height: float, offset: tuple[float, float, float]
) -> None:
    there = (float(np.clip(lat + offset[0], -90.0, 90.0)), lon + offset[1], height + offset[2])
    pipeline = pyproj.Transformer.from_pipeline(
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart +ellps=WGS84"
        f" +step +proj=topocentric +ellps=WGS84 +lat_0={lat!r} +lon_0={lon!r} +h_0={height!r}"
    )
    expected = pipeline.transform(there[1], there[0], there[2])
    enu = Enu(lat, lon, height)
    local = enu.from_wgs84(*there)
    np.testing.assert_allclose(local, expected, atol=1e-5)
    back = enu.to_wgs84(local)
    np.testing.assert_allclose(enu.from_wgs84(*back), local, atol=1e-5)
    assert float(back[2]) == pytest.approx(there[2], abs=1e-5)


def test_a_tangent_plane_falls_away() -> None:
    lon, lat, _ = GEOD.fwd(10.0, 50.0, 90.0, 16000.0)
    assert Enu(50.0, 10.0).from_wgs84(lat, lon)[2] == pytest.approx(-20.0, abs=0.3)


def test_body_to_ned_by_hand() -> None:
    yawed = body_to_ned(0.0, 0.0, math.pi / 2)  # nose east, so the right wing points south
    np.testing.assert_allclose(yawed @ np.eye(3), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)
    np.testing.assert_allclose(body_to_ned(0.0, math.pi / 2, 0.0) @ [1, 0, 0], [0, 0, -1], atol=1e-15)
    np.testing.assert_allclose(body_to_ned(math.pi / 2, 0.0, 0.0) @ [0, 1, 0], [0, 0, 1], atol=1e-15)


@given(roll=angles, pitch=angles, yaw=angles)
def test_body_to_ned_is_a_rotation_and_vectorised(roll: float, pitch: float, yaw: float) -> None:
    one = body_to_ned(roll, pitch, yaw)
    np.testing.assert_allclose(one @ one.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(one) == pytest.approx(1.0)
    steps = body_to_ned(0.0, 0.0, yaw) @ body_to_ned(0.0, pitch, 0.0) @ body_to_ned(roll, 0.0, 0.0)
    np.testing.assert_allclose(one, steps, atol=1e-12)
    np.testing.assert_allclose(body_to_ned([0.0, roll], pitch, yaw)[1], one)


@given(angle=st.floats(-1e4, 1e4))
def test_wrapped_angles(angle: float) -> None:
    wrapped = float(wrap_angle(angle))
    assert -math.pi < wrapped <= math.pi
    assert math.remainder(wrapped - angle, 2 * math.pi) == pytest.approx(0.0, abs=1e-9)
    yaw = float(wrap_yaw_deg(angle))
    assert 0.0 <= yaw < 360.0
    assert math.remainder(yaw - angle, 360.0) == pytest.approx(0.0, abs=1e-9)


def test_wrapping_at_the_seam() -> None:
    assert float(wrap_angle(-math.pi)) == math.pi
    assert float(wrap_yaw_deg(-1e-17)) == 0.0
