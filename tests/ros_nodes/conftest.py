"""A small area with its index, a flight over it, and nodes as processes, each test on a DDS domain of its own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kittiwake_runtime.cli import main
from kittiwake_runtime.localization.camera import save_camera
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, Motion, SimulatedFrame, simulate_flight
from kittiwake_runtime.localization.world import CRS, World, write_geotiff

if TYPE_CHECKING:
    from ros_peers import NodeProcess, Peer, Sample

AREA_M = (0.0, 0.0, 1600.0, 1600.0)
UPDATES = 14
STEP_M = 60.0


@dataclass(frozen=True)
class Scene:
    """An index of 2.6 km² in summer, and another year's autumn flown over it."""

    folder: Path
    frames: list[SimulatedFrame]

    @property
    def map(self) -> Path:
        return self.folder / "area.kwmap"

    @property
    def camera(self) -> Path:
        return self.folder / "camera.yaml"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the node needs."""
        return {"map": self.map, "camera": self.camera, "update_distance_m": STEP_M / 2}

    def truth(self, i: int) -> tuple[float, float]:
        """Latitude and longitude of a frame."""
        lat, lon = Grid.from_crs(CRS).to_wgs84(self.frames[i].easting_m, self.frames[i].northing_m)
        return float(lat), float(lon)

    def sample(self, i: int, shift_s: float = 0.0) -> Sample:
        """What the vehicle said at a frame."""
        from ros_peers import Sample

        frame, at = self.frames[i], self.frames[i].odometry
        odometry = (at.x_m, at.y_m, math.radians(at.yaw_deg))
        return Sample(frame.time_s + shift_s, frame.attitude_rad, frame.height_agl_m, odometry)

    def fly(self, peer: Peer, first: int = 0, last: int = UPDATES, shift_s: float = 0.0, *, back: bool = False) -> None:
        """Publish frames in lockstep: the next one when the node has answered the one before; or from the last one
        back to the first, tail first."""
        from ros_peers import NODE, image_message, messages, publish_sample

        heard = peer.heard[f"{NODE}/navsat"]
        end_s = self.frames[last - 1].time_s
        for i in reversed(range(first, last)) if back else range(first, last):
            stamp_s = shift_s + (2 * end_s - self.frames[i].time_s if back else self.frames[i].time_s)
            answered = lambda s=stamp_s: any(abs(messages.seconds(m.header.stamp) - s) < 1e-5 for m in heard)  # noqa: E731
            for seconds in (3.0, 20.0):  # best effort: what comes in the first moments of a match may get lost
                publish_sample(peer, self.sample(i, stamp_s - self.frames[i].time_s))
                peer.publishers["/camera/image"].publish(image_message(self.frames[i].image, stamp_s))
                with contextlib.suppress(TimeoutError):
                    peer.until(answered, f"the answer to frame {i}", seconds)
                    break
            assert answered(), f"no answer to frame {i}: {peer.state()}"


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder, world = tmp_path_factory.mktemp("scene"), World(3)
    write_geotiff(world, folder / "map.tif", AREA_M, gsd_m=4.0, season="summer")
    assert main(["map", "build", str(folder / "map.tif"), "-o", str(folder / "area.kwmap"), "--georef-sigma", "1"]) == 0
    motion = Motion(step_m=STEP_M)
    flight = simulate_flight(world, bounds=AREA_M, season="autumn", date_seed=1, updates=UPDATES, seed=2, motion=motion)
    save_camera(DEFAULT_CAMERA, folder / "camera.yaml")
    return Scene(folder, list(flight))


@pytest.fixture
def domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other test has at this time."""
    coordinator = pytest.importorskip("domain_coordinator", reason="needs ROS 2: pip install ros-rclpy")
    with coordinator.domain_id() as number:
        yield number


@pytest.fixture
def start_node(domain: int, tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts the localization node; all that were started end with the test."""
    from ros_peers import NodeProcess

    started: list[NodeProcess] = []

    def start(parameters: dict[str, Any], **options: Any) -> NodeProcess:
        node = NodeProcess(domain, parameters, tmp_path / f"node{len(started)}.log", **options)
        started.append(node)
        return node

    yield start
    for node in started:
        with node:
            pass
        print(node.output())


@pytest.fixture
def peer(domain: int) -> Iterator[Peer]:
    """The other end, with publishers for all that a vehicle says and ears for all that the node says."""
    from ros_peers import OUTPUTS, Peer

    with Peer(domain) as found:
        found.publish_to(["/imu", "/odometry", "/range", "/camera/image"])
        found.listen_to(*OUTPUTS)
        yield found
