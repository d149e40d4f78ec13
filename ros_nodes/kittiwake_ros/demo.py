"""Everything without hardware and without `launch`: ``python -m kittiwake_ros.demo``.

It maps a made-up area in summer, flies over it in another season, and has the node `uav_localization` find the
vehicle from an unknown start: two processes, real DDS, the same launch parameters as on a vehicle. It prints where the
node believes to be beside where the vehicle is, and writes a report when it is interrupted or done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.errors import KittiwakeError
from kittiwake_runtime.localization.camera import save_camera
from kittiwake_runtime.localization.map_build import DEFAULT_BUNDLE, build_index
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA
from kittiwake_runtime.localization.world import SEASONS, VERSION, World, write_geotiff

from .demo_record import FlightRecord
from .resources import config, profile_variable

FOOTPRINT_M = 160.0
MAP_GSD_M = 5.0
NODES = ("flight_simulator", "uav_localization")
DEADLINE_S = 60.0
ANSWER_S = 10.0


class DemoError(KittiwakeError):
    """The demo can't go on."""


@dataclass(frozen=True)
class Area:
    """What is mapped; an index of the same area and model is used again."""

    seed: int
    side_m: float
    bundle_sha256: str
    world_version: int = VERSION


def prepare(folder: Path, seed: int, side_m: float) -> Path:
    """Make map index and camera.yaml in a folder, unless those of this area are there; returns the index's path."""
    folder.mkdir(parents=True, exist_ok=True)
    index, made = folder / "area.kwmap", folder / "area.json"
    bundle = Bundle.open(DEFAULT_BUNDLE)
    area = json.loads(json.dumps(asdict(Area(seed, side_m, bundle.sha256))))
    if index.exists() and made.exists() and json.loads(made.read_text(encoding="utf-8")) == area:
        print(f"1/2  {index} is of this area already")
        return index
    print(f"1/2  a map of {side_m**2 / 1e6:.0f} km² in summer, and its index", flush=True)
    made.unlink(missing_ok=True)
    write_geotiff(World(seed), folder / "map.tif", (0.0, 0.0, side_m, side_m), MAP_GSD_M, "summer")
    facts = {"source": f"procedural world {seed}", "licence": "Apache-2.0", "georef_sigma_m": 1.0}
    build_index([folder / "map.tif"], index, footprint_m=FOOTPRINT_M, bundle=bundle, **facts)
    save_camera(DEFAULT_CAMERA, folder / "camera.yaml")
    made.write_text(json.dumps(area), encoding="utf-8")
    return index


def fly(folder: Path, index: Path, args: argparse.Namespace) -> FlightRecord:
    """Start both nodes, bring them to *active*, and tell of the flight until it is over or interrupted."""
    season, side_m = str(args.season), float(args.side_m)
    flight = {"seed": args.seed, "season": season, "side_m": side_m, "speed_m_s": float(args.speed), "map": index}
    parameters: dict[str, dict[str, Any]] = {
        "flight_simulator": flight,
        "uav_localization": {"map": index, "camera": folder / "camera.yaml", "track_folder": folder},
    }
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault(profile_variable(), str(config("fastdds_shm.xml")))
    print(f"2/2  a flight in {season} from an unknown start; Ctrl-C ends it", flush=True)
    with MapIndex.open(index) as map_index, _processes(parameters) as processes:
        record = FlightRecord(map_index)
        _follow(record, processes, float(args.seconds))
    return record


@contextmanager
def _processes(parameters: dict[str, dict[str, Any]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The nodes as processes, ended in any case; in a session of their own, so that Ctrl-C reaches this one first."""
    running = []
    try:
        for name in NODES:
            words = ["--params-file", str(config("demo.yaml"))]
            words += [word for key, value in parameters[name].items() for word in ("-p", f"{key}:={value}")]
            command = [sys.executable, "-m", f"kittiwake_ros.{name}", "--ros-args", *words, "--log-level", "warn"]
            running.append(subprocess.Popen(command, start_new_session=True))
        yield running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _follow(record: FlightRecord, processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Listen and print; returns after a time or on Ctrl-C."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticStatus
    from nav_msgs.msg import OccupancyGrid, Odometry
    from rclpy.executors import ExternalShutdownException
    from sensor_msgs.msg import NavSatFix

    from . import qos

    rclpy.init(args=[])
    try:
        node = rclpy.create_node("demo")
        own = "uav_localization"
        node.create_subscription(NavSatFix, "truth_navsat", record.on_truth, qos.output(200))
        node.create_subscription(DiagnosticStatus, f"{own}/state", record.on_state, qos.output())
        node.create_subscription(NavSatFix, f"{own}/navsat", record.on_navsat, qos.output())
        node.create_subscription(Odometry, f"{own}/pose", record.on_pose, qos.output())
        node.create_subscription(OccupancyGrid, f"{own}/belief", record.on_belief, qos.latched())
        for name in reversed(NODES):  # the simulator last: the other one then misses nothing
            _activate(node, name, processes)
        started_s = said_s = time.monotonic()
        while (now_s := time.monotonic()) - started_s < seconds:
            rclpy.spin_once(node, timeout_sec=0.1)
            _check_alive(processes)
            if now_s - said_s >= 1.0:
                said_s = now_s
                print(live_line(now_s - started_s, record), flush=True)
        _save_track(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        print()
    finally:
        rclpy.try_shutdown()


def live_line(time_s: float, record: FlightRecord) -> str:
    """One line for the terminal: state, error of the pose now, the radius for 95 %, and why it is not better."""
    parts = [f"{time_s:5.0f} s", f"{record.state:9s}", f"{len(record.updates):3d} updates"]
    if math.isfinite(record.error_m):
        parts += [f"error {record.error_m:6.1f} m", f"95 % {record.radius95_m:5.0f} m"]
    elif record.reason:
        parts.append(record.reason)
    return "  ".join(parts)


def _activate(node: Any, name: str, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Configure and activate a lifecycle node through its services, as any lifecycle manager does.

    Answers get lost on a busy machine: then the node's state tells whether the transition was made, and if it was not,
    the node is asked again.
    """
    from lifecycle_msgs.msg import State, Transition
    from lifecycle_msgs.srv import ChangeState, GetState

    change = node.create_client(ChangeState, f"{name}/change_state")
    state = node.create_client(GetState, f"{name}/get_state")
    for word, transition, goal in (
        ("configure", Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
        ("activate", Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
    ):
        end_s = time.monotonic() + DEADLINE_S
        while True:
            answer = _answer(node, change, ChangeState.Request(transition=Transition(id=transition)), processes)
            if answer is not None and answer.success:
                break
            found = _answer(node, state, GetState.Request(), processes)
            if found is not None and found.current_state.id == goal:
                break
            if answer is not None:
                raise DemoError(f"{name} can't {word}", "it said why above")
            if time.monotonic() > end_s:
                raise DemoError(f"{name} does not {word} within {DEADLINE_S:.0f} s", "is this machine very busy?")
    node.destroy_client(change)
    node.destroy_client(state)


def _answer(node: Any, client: Any, request: Any, processes: Sequence[subprocess.Popen[bytes]]) -> Any:
    """A service's answer, or None when it does not come."""
    if not _wait(node, client.service_is_ready, DEADLINE_S, processes):
        raise DemoError(
            f"{client.srv_name} is not served within {DEADLINE_S:.0f} s",
            "is another ROS 2 with this ROS_DOMAIN_ID running, or another middleware set?",
        )
    future = client.call_async(request)
    return future.result() if _wait(node, future.done, ANSWER_S, processes) else None


def _save_track(node: Any) -> None:
    """Have the node write its own track; it is asked once, and may not have one."""
    import rclpy
    from std_srvs.srv import Trigger

    client = node.create_client(Trigger, "uav_localization/save_track")
    future = client.call_async(Trigger.Request())
    rclpy.spin_until_future_complete(node, future, timeout_sec=5.0)
    if future.done():
        print(f"track: {future.result().message}")


def _wait(node: Any, is_done: Any, seconds: float, processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Whether it was done within a time."""
    import rclpy

    end_s = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end_s:
            return False
        rclpy.spin_once(node, timeout_sec=0.05)
        _check_alive(processes)
    return True


def _check_alive(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for name, process in zip(NODES, processes, strict=True):
        if process.poll() is not None:
            raise DemoError(f"{name} ended with status {process.returncode}", "it said why above")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m kittiwake_ros.demo", description=__doc__.splitlines()[0])
    made.add_argument("-o", "--output", type=Path, default=Path("out/ros_demo"), help="folder (%(default)s)")
    made.add_argument("--season", choices=SEASONS, default="autumn", help="of the flight (%(default)s)")
    made.add_argument("--seed", type=int, default=1, help="another world and flight (%(default)s)")
    made.add_argument("--side-m", type=float, default=4000.0, help="of the square area, metres (%(default)s)")
    made.add_argument("--speed", type=float, default=20.0, help="of the vehicle, m/s (%(default)s)")
    made.add_argument("--seconds", type=float, default=120.0, help="how long to fly (%(default)s)")
    made.add_argument("--prepare", action="store_true", help="make map and camera.yaml, and do not fly")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 2 for a mistake of the user."""
    args = parser().parse_args(arguments)
    try:
        index = prepare(args.output, args.seed, args.side_m)
        if args.prepare:
            return 0
        record = fly(args.output, index, args)
    except KittiwakeError as error:
        print(error.message + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    facts = {"flight": f"{args.season}, {args.speed:g} m/s, procedural world {args.seed}"}
    for name, value in {**facts, **record.summary()}.items():
        print(f"{name}: {value}")
    if (page := record.write(args.output, facts)) is not None:
        print(f"report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
