"""The localization node as a process, over DDS: a flight, its outputs, priors, and all that can be wrong with input."""

# ruff: noqa: E402 (the imports of ROS come after the question whether it is there)
from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from nav_msgs.msg import Path as PathMessage
from pyproj import Geod
from ros_peers import NODE, NodeProcess, Peer, image_message, info_message, publish_sample
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, Range

from kittiwake_ros import messages, qos
from kittiwake_ros.geometry import yaw_of
from kittiwake_runtime.localization.frames import Enu
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA

pytestmark = pytest.mark.slow

GEOD = Geod(ellps="WGS84")
StartNode = Callable[..., NodeProcess]
Scene = Any


def distance_m(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(GEOD.inv(a[1], a[0], b[1], b[0])[2])


def test_a_flight_is_found_and_its_outputs_agree(
    scene: Scene, start_node: StartNode, peer: Peer, tmp_path: Path
) -> None:
    start_node(scene.parameters | {"track_folder": tmp_path / "track"})
    peer.hear(PathMessage, f"{NODE}/path", qos.latched())
    peer.activate()
    scene.fly(peer)
    last_stamp = messages.stamp_of(scene.frames[-1].time_s)
    fixes = peer.heard[f"{NODE}/fix"]
    peer.until(
        lambda: fixes and fixes[-1].header.stamp == last_stamp, "a fix with the stamp of its image, to the nanosecond"
    )
    peer.until(lambda: peer.state().get("state") == "converged", "the state")

    navsats = {messages.seconds(m.header.stamp): m for m in peer.heard[f"{NODE}/navsat"]}
    believed = 0
    for i, frame in enumerate(scene.frames):
        message = navsats[messages.seconds(messages.stamp_of(frame.time_s))]
        if message.status.status == message.status.STATUS_NO_FIX:
            assert math.isnan(message.latitude)
            assert math.isnan(message.longitude)
            continue
        believed += 1
        sigma_m = math.sqrt(max(message.position_covariance[0], message.position_covariance[4]))
        assert distance_m((message.latitude, message.longitude), scene.truth(i)) < max(5 * sigma_m, 30)
        assert 1 <= sigma_m < 70, "the map's own error is in it"
        assert math.isnan(message.altitude)
    assert believed >= 2
    assert navsats[min(navsats)].status.status == -1, "nothing is known after one image"

    # The fix in the map frame is the same place: by the published origin and the ellipsoid.
    state = peer.state()
    origin = Enu(float(state["map_origin_lat_deg"]), float(state["map_origin_lon_deg"]))
    fix = fixes[-1]
    assert fix.header.frame_id == "map"
    at = fix.pose.pose.position
    lat, lon, _ = origin.to_wgs84([at.x, at.y, 0.0])
    last = navsats[max(t for t in navsats if t <= scene.frames[-1].time_s + 1)]
    assert distance_m((float(lat), float(lon)), (last.latitude, last.longitude)) < 0.5
    assert at.z == pytest.approx(scene.frames[-1].height_agl_m, rel=0.02)
    covariance = np.array(fix.pose.covariance).reshape(6, 6)
    assert (np.linalg.eigvalsh(covariance) > 0).all(), "a zero would say that it is perfect"
    true_yaw = scene.frames[-1].attitude_rad[2]
    q = messages.quaternion_of(fix.pose.pose.orientation)
    off = math.remainder(math.pi / 2 - yaw_of(q) - true_yaw, math.tau)
    assert abs(math.degrees(off)) < 10

    # The pose comes with the newest odometry's stamp, and follows it.
    moved = scene.sample(len(scene.frames) - 1)
    ahead = type(moved)(moved.time_s + 1.0, moved.attitude_rad, moved.height_m, (
        moved.odometry[0] + 20 * math.cos(moved.odometry[2]), moved.odometry[1] + 20 * math.sin(moved.odometry[2]),
        moved.odometry[2]))  # fmt: skip
    publish_sample(peer, ahead)
    pose = peer.until(
        lambda: next(
            (m for m in peer.heard[f"{NODE}/pose"] if messages.seconds(m.header.stamp) > moved.time_s + 0.9), 0
        ),
        "the pose carried forward",
    )
    assert isinstance(pose, Odometry)
    assert (pose.header.frame_id, pose.child_frame_id) == ("map", "base_link")
    step = (pose.pose.pose.position.x - at.x, pose.pose.pose.position.y - at.y)
    assert math.hypot(*step) == pytest.approx(20, abs=0.1)
    assert math.remainder(math.atan2(step[1], step[0]) - yaw_of(q), math.tau) == pytest.approx(0, abs=0.01)
    assert pose.pose.covariance[0] > fix.pose.covariance[0]
    assert float(
        peer.until(lambda: peer.state() if float(peer.state().get("age_s", 0)) > 0.9 else 0, "age")["age_s"]
    ) == (pytest.approx(1.0, abs=0.01))

    # Who comes late gets the belief and the path all the same.
    peer.hear(OccupancyGrid, f"{NODE}/belief", qos.latched())
    peer.hear(Image, f"{NODE}/belief_image", qos.latched())
    grid = peer.until(lambda: peer.heard[f"{NODE}/belief"], "the belief for a late subscriber")[-1]
    assert max(grid.info.width, grid.info.height) <= 256
    assert len(grid.data) == grid.info.width * grid.info.height
    assert max(grid.data) == 100
    path = peer.until(lambda: peer.heard[f"{NODE}/path"], "the path")[-1]
    assert path.poses[-1].pose.position.x == pytest.approx(at.x, abs=1e-6)

    # The track goes to disk as `kittiwake locate` writes it.
    assert peer.trigger("save_track").success
    with (tmp_path / "track" / "track.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(scene.frames)
    assert float(rows[-1]["lat_deg"]) == pytest.approx(last.latitude, abs=1e-7)

    # After a reset nothing is believed.
    assert peer.trigger("reset").success
    peer.until(lambda: peer.state()["state"] == "searching", "the state after the reset")
    poses = len(peer.heard[f"{NODE}/pose"])
    publish_sample(peer, type(moved)(moved.time_s + 2.0, moved.attitude_rad, moved.height_m, moved.odometry))
    peer.spin(0.5)
    assert len(peer.heard[f"{NODE}/pose"]) == poses


def test_compressed_images_with_camera_info_alone(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node({"map": scene.map, "compressed": True, "update_distance_m": 30.0})
    compressed = peer.node.create_publisher(CompressedImage, "/camera/image/compressed", qos.output())
    info = peer.node.create_publisher(CameraInfo, "/camera/camera_info", qos.output())
    del peer.publishers["/camera/image"]
    peer.activate()
    for publisher in (compressed, info):
        peer.until(lambda p=publisher: p.get_subscription_count(), "a subscriber")
    heard = peer.heard[f"{NODE}/navsat"]
    for i, frame in enumerate(scene.frames[:3]):
        stamp = messages.stamp_of(frame.time_s)
        info.publish(info_message(DEFAULT_CAMERA, frame.time_s))
        publish_sample(peer, scene.sample(i))
        data = cv2.imencode(".jpg", frame.image[..., ::-1])[1].tobytes()
        message = CompressedImage(format="jpeg", data=data)
        message.header.stamp, message.header.frame_id = stamp, "camera"
        if i == 0:
            peer.spin(0.3)  # the CameraInfo goes another way than the image
        compressed.publish(message)
        peer.until(lambda s=stamp: any(m.header.stamp == s for m in heard), f"the answer to frame {i}")
    peer.until(lambda: peer.state().get("images_used") == "3", "three images used")
    compressed.publish(CompressedImage(format="jpeg", data=b"no image", header=message.header))
    peer.until(lambda: int(peer.state()["images_received"]) >= 4, "the damaged image")


def test_priors_are_soft_and_bad_ones_are_refused(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node(scene.parameters)
    initial = peer.node.create_publisher(PoseWithCovarianceStamped, "/initialpose", qos.output())
    navsat = peer.node.create_publisher(NavSatFix, "/prior_navsat", qos.output())
    peer.activate()
    for publisher in (initial, navsat):
        peer.until(lambda p=publisher: p.get_subscription_count(), "a subscriber")

    def refusal(topic: str, text: str) -> None:
        peer.until(lambda: text in peer.diagnostics().get(f"refused {topic}", ""), f"{topic}: {text}")

    prior = PoseWithCovarianceStamped()
    prior.header.frame_id = "odom"
    initial.publish(prior)
    refusal("initialpose", "frame_id is 'odom', expected 'map'")
    prior.header.frame_id = "map"
    prior.pose.covariance = np.full(36, math.nan)
    initial.publish(prior)
    refusal("initialpose", "the covariance of the position is not usable")
    fix = NavSatFix(latitude=95.0, longitude=18.0)
    fix.status.status = 0
    navsat.publish(fix)
    refusal("prior_navsat", "95.0")
    fix.status.status = -1
    navsat.publish(fix)
    refusal("prior_navsat", "it has no fix")

    fix.status.status = 0
    fix.latitude, fix.longitude = scene.truth(0)
    fix.position_covariance = np.diag([400.0, 400.0, 1e4]).ravel()
    fix.position_covariance_type = NavSatFix.COVARIANCE_TYPE_KNOWN
    navsat.publish(fix)
    peer.spin(0.3)
    scene.fly(peer, 0, 9)
    peer.until(lambda: peer.state()["state"] == "converged", "nine images that agree with the prior are enough", 5)


def bad_images(scene: Scene) -> list[tuple[str, Any]]:
    """A reason in the diagnostics, and the image that earns it."""
    frame = scene.frames[0]

    def image(**changes: Any) -> Any:
        message = image_message(frame.image, frame.time_s)
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    unstamped, framed = image(), image()
    unstamped.header.stamp = messages.stamp_of(0.0)
    framed.header.frame_id = "other"
    return [
        ("encoding '32FC1' is not supported", image(encoding="32FC1")),
        ("step is 100 bytes", image(step=100)),
        ("5 bytes of data", image(data=[1, 2, 3, 4, 5])),
        ("header.stamp", unstamped),
        ("frame_id is 'other', expected 'camera'", framed),
        ("it is 100x50 px, the camera is 360x300", image_message(frame.image[:50, :100], frame.time_s)),
    ]


def bad_attitudes(stamp: Any) -> list[tuple[str, Any]]:
    without, broken = Imu(), Imu()
    without.header.stamp = broken.header.stamp = stamp
    without.orientation_covariance[0] = broken.angular_velocity_covariance[0] = -1.0
    broken.orientation.w = 0.0
    return [("it has no orientation", without), ("no unit quaternion", broken)]


def bad_odometry(stamp: Any) -> list[tuple[str, Any]]:
    looped, broken, turned = Odometry(), Odometry(), Odometry()
    for message in (looped, broken, turned):
        message.header.stamp, message.header.frame_id, message.pose.pose.orientation.w = stamp, "odom", 1.0
    looped.header.frame_id = "map"
    broken.pose.pose.position.x = math.nan
    turned.pose.pose.orientation.z = 1.0
    return [("that is a loop", looped), ("not finite", broken), ("no unit quaternion", turned)]


def bad_ranges() -> list[tuple[str, Any]]:
    values = (math.inf, 0.2, math.nan, 400.0)
    return [("outside 1 to 100 m", Range(min_range=1.0, max_range=100.0, range=value)) for value in values]


def bad_infos() -> list[tuple[str, Any]]:
    fisheye, uncalibrated = info_message(DEFAULT_CAMERA, 1.0), info_message(DEFAULT_CAMERA, 1.0)
    fisheye.distortion_model, uncalibrated.k = "equidistant", np.zeros(9)
    return [("'equidistant'", fisheye), ("focal lengths of 0 and 0", uncalibrated)]


def test_bad_input_is_refused_with_the_message_and_the_reason(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node(scene.parameters | {"camera_frame": "camera"})
    peer.publish_to(["/camera/camera_info"])
    peer.activate()
    stamp = messages.stamp_of(scene.frames[0].time_s)
    bad = {
        "/camera/image": bad_images(scene),
        "/imu": bad_attitudes(stamp),
        "/odometry": bad_odometry(stamp),
        "/range": bad_ranges(),
        "/camera/camera_info": bad_infos(),
    }
    for round_ in range(max(map(len, bad.values()))):  # one of each at a time: the last reason is shown
        sent = {topic: cases[round_] for topic, cases in bad.items() if round_ < len(cases)}
        for topic, (_, message) in sent.items():
            peer.publishers[topic].publish(message)
        for topic, (reason, _) in sent.items():
            key = f"refused {topic[1:]}"
            peer.until(lambda k=key, r=reason: r in peer.diagnostics().get(k, ""), f"{key}: {reason}")
    assert peer.diagnostics()["images_received"] == "6"

    unsure = Odometry()
    unsure.header.stamp, unsure.header.frame_id, unsure.pose.pose.orientation.w = stamp, "odom", 1.0
    unsure.pose.covariance[0] = math.nan
    peer.publishers["/odometry"].publish(unsure)
    peer.publishers["/camera/camera_info"].publish(info_message(DEFAULT_CAMERA.scaled_to(720, 600), 1.0))
    for text in ("its covariance is not finite", "camera.yaml is for 360x300 px, CameraInfo for 720x600"):
        peer.until(lambda t=text: t in peer.diagnostics()["message"], text)

    scene.fly(peer, 1, 3)  # and it still flies
    peer.until(lambda: peer.state().get("images_used") == "2", "two images used")


def test_padded_rows_and_other_encodings_fly_as_well(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node(scene.parameters)
    peer.activate()
    heard = peer.heard[f"{NODE}/navsat"]
    for i, encoding in enumerate(("bgr8", "mono8", "rgba8", "padded")):
        frame = scene.frames[i]
        gray = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        alpha = np.dstack([frame.image, np.full(gray.shape, 255, np.uint8)])
        pixels = {"bgr8": frame.image[..., ::-1], "mono8": gray, "rgba8": alpha, "padded": frame.image}[encoding]
        message = image_message(pixels, frame.time_s, encoding=encoding.replace("padded", "rgb8"))
        if encoding == "padded":
            padded = np.zeros((message.height, message.step + 24), np.uint8)
            padded[:, : message.step] = pixels.reshape(message.height, -1)
            message.step += 24
            message.data = padded.tobytes()
        publish_sample(peer, scene.sample(i))
        peer.publishers["/camera/image"].publish(message)
        peer.until(lambda s=message.header.stamp: any(m.header.stamp == s for m in heard), encoding)
    assert "refused camera/image" not in peer.diagnostics()
    peer.until(lambda: peer.state().get("images_used") == "4", "four images used")


def test_late_missing_and_disordered_samples(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node(scene.parameters)
    peer.activate()
    send = peer.publishers["/camera/image"].publish
    scene.fly(peer, 0, 1)
    frame = scene.frames[1]
    publish_sample(peer, scene.sample(1), ("/odometry", "/range"))
    send(image_message(frame.image, frame.time_s))
    peer.until(lambda: peer.diagnostics().get("images_without_attitude") == "1", "the image without attitude")

    publish_sample(peer, scene.sample(2), ("/imu", "/range"))
    send(image_message(scene.frames[2].image, scene.frames[2].time_s))
    publish_sample(peer, scene.sample(2), ("/odometry",))  # late, and in time all the same
    peer.until(lambda: peer.diagnostics().get("images_used") == "2", "the image that waited")

    late = scene.sample(2, -0.4)
    publish_sample(peer, late)
    peer.until(lambda: "out of order" in peer.diagnostics().get("refused imu", ""), "the disordered sample")
    scene.fly(peer, 3, 4)
    assert peer.diagnostics().get("images_out_of_order") is None

    def all_are_counted() -> bool:
        state = peer.state()
        counts = [int(v) for k, v in state.items() if k.startswith("images_") and k != "images_received"]
        return sum(counts) == int(state["images_received"])

    peer.until(all_are_counted, "every image in one of the counts")  # the last one's follows its fix


def test_qos_that_can_not_match_is_told(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node(scene.parameters | {"image_reliable": True})
    peer.node.destroy_publisher(peer.publishers.pop("/camera/image"))
    peer.node.create_publisher(Image, "/camera/image", qos.sensor())
    peer.hear(PoseWithCovarianceStamped, f"{NODE}/fix", qos.latched())
    assert peer.transition("configure")
    assert peer.transition("activate")
    peer.until(
        lambda: (
            "camera/image: 1 publisher with an incompatible QoS policy (RELIABILITY)" in peer.diagnostics()["message"]
        ),
        "the publisher that can't be heard",
    )
    assert "~/fix: 1 subscriber with an incompatible QoS policy (DURABILITY)" in peer.diagnostics()["message"]
