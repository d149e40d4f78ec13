"""In real time: images lost, transport, the node's own time, computing that comes late, memory."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from nav_msgs.msg import Odometry
from results import Figure
from ros_peers import NODE, NodeProcess, Peer, Sample, image_message, messages, publish_sample, values_of
from runs import CACHE
from sensor_msgs.msg import NavSatFix
from tqdm import tqdm

from kittiwake_ros import qos
from kittiwake_ros.geometry import yaw_of
from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.frames import Enu, Grid
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, Truth, photograph
from kittiwake_runtime.localization.world import CRS, ORIGIN_EASTING_M, ORIGIN_NORTHING_M, World
from ros_rows.node import flown
from ros_rows.scene import WORLD_SEED, Plan, camera_file, index_of, of_world

SIDE_M = 4_000.0
VGA = Camera.from_fov(640, 480, 65.0)
HEIGHT_M = 150.0
RADIUS_M = 300.0
SPEED_M_S = 90.0
PICTURES = 94
CAMERA_HZ, SENSOR_HZ = 30, 60
LOOKS = 40
LEAST_FOR_P99 = 459
"""Samples that a 99th percentile stands on, for a 95 % bound."""

SIMULATOR = "kittiwake_ros.flight_simulator"


def measure_camera(plan: Plan) -> list[Figure]:
    """A circle at 90 m/s, an update every 40 m: VGA at 30 Hz in real time."""
    seconds, pictures = plan.count(240, 20), circle_pictures()
    parameters = {"map": index_of(SIDE_M), "camera": camera_file(VGA, "ros-vga"), "update_distance_m": 40.0}
    with flown(parameters) as (_, _, peer):
        peer.publish_to(["/imu", "/odometry", "/range", "/camera/image"])
        peer.listen_to(f"{NODE}/state", "/diagnostics")
        peer.activate()
        start_at(peer, *on_circle(0.0)[:2])
        sent = fly_circle(peer, pictures, seconds)
        peer.spin(3.0)  # the last update, and diagnostics after it
        final = peer.diagnostics()
        updates = {
            state["images_used"]: state for state in map(values_of, peer.heard[f"{NODE}/state"]) if "node_ms" in state
        }
    lost = sent - int(final.get("images_received", 0))
    uncounted = int(final["images_received"]) - sum(
        int(count) for name, count in final.items() if name.startswith("images_") and name != "images_received"
    )
    node_ms = [float(state["node_ms"]) for state in updates.values()]
    age_ms = [float(state["image_age_ms"]) for state in updates.values()]
    data = f"{of_world(SIDE_M)}; circle of {RADIUS_M:.0f} m, {seconds} s, 640x480 rgb8 at {CAMERA_HZ} Hz"
    enough = len(node_ms) >= LEAST_FOR_P99
    p99 = float(np.percentile(node_ms, 99)) if enough else None
    few = "" if enough else f"{len(node_ms)} samples; a 99th percentile needs {LEAST_FOR_P99}"
    taken = "image taken by the node to fix published, less the localizer's own time"
    counted = f"{uncounted} of those received not accounted for"
    way = "stamp to taken, rclpy at both ends"
    return [
        Figure("camera.lost", float(lost), "", sent, None, "0", data=data, note=counted),
        Figure(
            "transport.p50_ms",
            median(age_ms),
            "ms",
            len(age_ms),
            None,
            data=data,
            note=way,
        ),
        Figure("node.p50_ms", median(node_ms), "ms", len(node_ms), None, "<= 3", data=data, note=taken),
        Figure("node.p99_ms", p99, "ms", len(node_ms), None, "<= 10", data=data, note=few or taken),
    ]


def circle_pictures() -> np.ndarray:
    """``(94, 480, 640, 3) uint8``: what is seen on the circle, every 20 m."""
    path = CACHE / f"ros-circle-{WORLD_SEED}-{PICTURES}.npy"
    if not path.exists():
        world = World(WORLD_SEED)
        taken = [
            photograph(world, VGA, Truth(x, y, heading, 0.0, 0.0, HEIGHT_M), "autumn", 1)
            for x, y, heading in tqdm(
                [on_circle(i / PICTURES) for i in range(PICTURES)], desc="pictures", unit="image", disable=None
            )
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".part.npy"), np.stack(taken))
        os.replace(path.with_suffix(".part.npy"), path)
    return np.load(path)


def on_circle(share: float) -> tuple[float, float, float]:
    """x, y and heading after a share of the circle, in the world's metres."""
    angle = math.tau * share
    middle = SIDE_M / 2
    return middle + RADIUS_M * math.cos(angle), middle + RADIUS_M * math.sin(angle), angle + math.pi / 2


def fly_circle(peer: Peer, pictures: np.ndarray, seconds: float, look: Callable[[float], None] | None = None) -> int:
    """Publish sensors and camera in real time; returns how many images were sent.

    Args:
        look: called with the seconds flown, forty times along the way.
    """
    ticks = int(seconds * SENSOR_HZ)
    round_s = math.tau * RADIUS_M / SPEED_M_S
    start, sent = time.time(), 0
    x0, y0, heading0 = on_circle(0.0)
    for tick in tqdm(range(ticks), desc="circle", unit="tick", disable=None):
        if look is not None and tick % max(ticks // LOOKS, 1) == 0:
            look(tick / SENSOR_HZ)
        due = start + tick / SENSOR_HZ
        while (left := due - time.time()) > 0:
            peer.executor.spin_once(timeout_sec=left)
        share = (due - start) / round_s
        x, y, heading = on_circle(share)
        away = complex(x - x0, y - y0) * complex(math.cos(-heading0), math.sin(-heading0))
        odometry = (away.real, away.imag, math.remainder(heading - heading0, math.tau))
        yaw = math.pi / 2 - heading
        gyro = (0.0, 0.0, math.tau / round_s)
        publish_sample(peer, Sample(due, (0.0, 0.0, yaw), HEIGHT_M, odometry, gyro))
        if tick % (SENSOR_HZ // CAMERA_HZ) == 0:
            message = image_message(pictures[round(share * PICTURES) % PICTURES], due)
            peer.publishers["/camera/image"].publish(message)
            sent += 1
    return sent


def start_at(peer: Peer, x_m: float, y_m: float) -> None:
    """Tell the node where in the world it starts: found at once, it flies on as it would after losing GNSS."""
    lat, lon = Grid.from_crs(CRS).to_wgs84(ORIGIN_EASTING_M + x_m, ORIGIN_NORTHING_M + y_m)
    tell(peer, float(lat), float(lon))


def tell(peer: Peer, lat_deg: float, lon_deg: float) -> None:
    """A prior of 20 m."""
    prior = NavSatFix(latitude=lat_deg, longitude=lon_deg)
    prior.status.status, prior.position_covariance_type = 0, NavSatFix.COVARIANCE_TYPE_KNOWN
    prior.position_covariance = [400.0, 0.0, 0.0, 0.0, 400.0, 0.0, 0.0, 0.0, 400.0]
    publisher = peer.node.create_publisher(NavSatFix, "/prior_navsat", qos.output())
    peer.until(publisher.get_subscription_count, "the node's prior")
    publisher.publish(prior)


def measure_configure(plan: Plan) -> list[Figure]:
    """From configure to active with an index of 100 km²."""
    side_m = 4_000.0 if plan.quick else 10_000.0
    parameters = {"map": index_of(side_m), "camera": camera_file(DEFAULT_CAMERA, "ros-camera")}
    taken = []
    for _ in range(plan.count(5, 2)):
        with flown(parameters) as (_, _, peer):
            peer.lifecycle()
            started = time.monotonic()
            done = peer.transition("configure") and peer.transition("activate")
            taken.append(time.monotonic() - started if done else math.nan)
    bounds = (min(taken), max(taken))
    note = "fresh processes; the interval is the range"
    return [Figure("configure.s", median(taken), "s", len(taken), bounds, "<= 2", data=of_world(side_m), note=note)]


def measure_late(plan: Plan) -> list[Figure]:
    """The simulator flies at 20 m/s while every update takes longer."""
    seconds, excess, old, gaps, n = plan.count(240, 120), list[float](), 0, list[float](), 0
    by_delay = []
    for slow_s in (0.2, 0.5, 2.0):
        found, samples = fly_slowly(slow_s, seconds)
        by_delay.append(f"{slow_s:g} s: {np.percentile(found, 95):.2f} m" if found else f"{slow_s:g} s: not converged")
        excess.append(float(np.percentile(found, 95)) if found else math.inf)
        stamps, sent, resets = samples.T if len(samples) else np.zeros((3, 0))
        old += int((sent - stamps > 0.15).sum())
        same = np.diff(resets) == 0
        gaps += np.diff(stamps)[same].tolist()
        n += len(stamps)
    worst = max(excess)
    data = f"{of_world(SIDE_M)}; 20 m/s, {seconds} s for each delay; " + ", ".join(by_delay)
    value = worst if math.isfinite(worst) else None
    note = "error of the pose less that of its update and of the odometry since; 95th percentile, worst delay"
    return [
        Figure("late.error_m", value, "m", n, None, "<= 1", data=data, note=note),
        Figure(
            "late.old", old, "samples", n, None, "0", data=data, note="samples older than 150 ms when they were sent"
        ),
        Figure("late.gap_s", max(gaps, default=None), "s", n, None, "<= 1", data=data, note="longest while converged"),
    ]


def fly_slowly(slow_s: float, seconds: float) -> tuple[list[float], np.ndarray]:
    """Excess errors of the poses, and ``(n, 3)`` stamp, time of sending and reset counter of the samples sent."""
    sent = CACHE / "ros-sent.txt"
    sent.unlink(missing_ok=True)
    os.environ |= {"KITTIWAKE_SLOW_S": str(slow_s), "KITTIWAKE_SENT": str(sent)}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    parameters = {"map": index_of(SIDE_M), "camera": camera_file(DEFAULT_CAMERA, "ros-camera")}
    world = {"seed": WORLD_SEED, "side_m": SIDE_M, "map": index_of(SIDE_M), "autostart": True}
    said: list[Odometry | NavSatFix] = []  # poses and updates in the order that they came
    with flown(parameters, module="ros_slow_node") as (domain, _, peer):
        peer.listen_to(f"{NODE}/state")
        peer.node.create_subscription(Odometry, f"{NODE}/pose", said.append, qos.output(200))
        peer.node.create_subscription(NavSatFix, f"{NODE}/navsat", said.append, qos.output(200))
        peer.hear(NavSatFix, "/truth_navsat", qos.output())
        for topic in ("/truth", "/odometry"):
            peer.hear(Odometry, topic, qos.output(200))
        with NodeProcess(domain, world, CACHE / "ros-simulator.log", module=SIMULATOR):
            peer.activate()
            where = peer.until(lambda: peer.heard["/truth_navsat"], "the simulator")[-1]
            tell(peer, where.latitude, where.longitude)
            for _ in tqdm(range(int(seconds)), desc=f"{slow_s:g} s late", unit="s", disable=None):
                peer.spin(1.0)
        state = peer.state()
    origin = Enu(float(state["map_origin_lat_deg"]), float(state["map_origin_lon_deg"]))
    samples = np.loadtxt(sent, ndmin=2) if sent.exists() and sent.stat().st_size else np.zeros((0, 3))
    return list(excess_errors(said, peer.heard, origin)), samples


def excess_errors(said: Sequence[Odometry | NavSatFix], heard: dict[str, list], origin: Enu) -> Iterator[float]:
    """For each pose: its error, less that of the update it comes from, less that of the odometry in between.

    Args:
        said: poses and updates of the node, in the order that they came.
        heard: ``/truth`` and ``/odometry``.
        origin: of the frame ``map``.
    """
    truth, odometry = (_track(heard[topic]) for topic in ("/truth", "/odometry"))
    update: tuple[float, float, float] | None = None
    for message in said:
        time_s = messages.seconds(message.header.stamp)
        if isinstance(message, NavSatFix):
            x, y, _ = origin.from_wgs84(message.latitude, message.longitude)
            update = (time_s, float(x), float(y)) if message.status.status >= 0 else None
        elif update is not None and update[0] <= time_s <= min(truth[-1, 0], odometry[-1, 0]):
            now, then = _at(truth, time_s), _at(truth, update[0])
            walked, walked_before = _at(odometry, time_s), _at(odometry, update[0])
            step = complex(walked[0] - walked_before[0], walked[1] - walked_before[1])
            # The direction that the update believed in: its error is the update's own.
            heading = yaw_of(messages.quaternion_of(message.pose.pose.orientation)) - (walked[2] - walked_before[2])
            turned = heading - walked_before[2]
            carried = step * complex(math.cos(turned), math.sin(turned))
            own = complex(update[1] - then[0], update[2] - then[1])
            drift = carried - complex(now[0] - then[0], now[1] - then[1])
            at = message.pose.pose.position
            yield abs(complex(at.x - now[0], at.y - now[1]) - own - drift)


def _track(heard: Sequence) -> np.ndarray:
    """``(n, 4)`` time, x, y and yaw of messages with a pose, in order of time; yaw unwrapped."""
    rows = []
    for message in heard:
        pose = message.pose.pose
        yaw = yaw_of(messages.quaternion_of(pose.orientation))
        rows.append((messages.seconds(message.header.stamp), pose.position.x, pose.position.y, yaw))
    track = np.array(sorted(rows)).reshape(-1, 4)
    track[:, 3] = np.unwrap(track[:, 3])
    return track


def _at(track: np.ndarray, time_s: float) -> tuple[float, float, float]:
    x, y, yaw = (float(np.interp(time_s, track[:, 0], track[:, i])) for i in (1, 2, 3))
    return x, y, yaw


def measure_soak(plan: Plan) -> list[Figure]:
    """Resident memory of the node, from the end of the first quarter to the end of the flight."""
    minutes, pictures = plan.soak_minutes, circle_pictures()
    parameters = {"map": index_of(SIDE_M), "camera": camera_file(VGA, "ros-vga"), "update_distance_m": 40.0}
    memory: list[tuple[float, float]] = []
    with flown(parameters) as (_, node, peer):
        peer.publish_to(["/imu", "/odometry", "/range", "/camera/image"])
        peer.activate()
        start_at(peer, *on_circle(0.0)[:2])
        fly_circle(peer, pictures, 60 * minutes, lambda at_s: memory.append((at_s, resident_mb(node.process.pid))))
        listing = ", ".join(f"{mb:.0f}" for _, mb in memory[:: LOOKS // 8])
    early, late = (
        median(mb for _, mb in memory[LOOKS // 4 : LOOKS // 2]),
        median(mb for _, mb in memory[-LOOKS // 4 :]),
    )
    note = f"median of the last quarter over that of the second, {minutes:g} minutes; MB along the way: {listing}"
    data = f"{of_world(SIDE_M)}; 640x480 rgb8 at {CAMERA_HZ} Hz"
    growth = 100 * (late / early - 1)
    return [Figure("soak.rss_growth", growth, "%", len(memory), None, "<= 3", data=data, note=note)]


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return math.nan
