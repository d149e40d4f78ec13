"""Through ROS and directly: the same flight gives the same fixes."""

from __future__ import annotations

import math

from results import Figure
from ros_peers import NODE, Sample, image_message, publish_sample
from tqdm import tqdm

from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA
from ros_rows.consistency import SIDE_M, directly, simulated
from ros_rows.node import flown
from ros_rows.scene import SEED, Plan, camera_file, index_of, of_world

UPDATES = 50


def measure_parity(plan: Plan) -> list[Figure]:
    """The largest distance between a believed fix of the node and the same one called directly."""
    frames = simulated(SEED, plan.count(UPDATES, 15))
    expected = list(directly(frames))
    grid = expected[0].grid
    camera = camera_file(DEFAULT_CAMERA, "ros-camera")
    parameters = {"map": index_of(SIDE_M), "camera": camera, "update_distance_m": 50.0}
    apart = []
    with flown(parameters) as (_, _, peer):
        peer.publish_to(["/imu", "/odometry", "/range", "/camera/image"])
        peer.listen_to(f"{NODE}/navsat")
        peer.activate()
        for frame, fix in zip(tqdm(frames, desc="parity", unit="image", disable=None), expected, strict=True):
            at = frame.odometry
            odometry = (at.x_m, at.y_m, math.radians(at.yaw_deg))
            publish_sample(peer, Sample(frame.time_s, frame.attitude_rad, frame.height_agl_m, odometry))
            message = image_message(frame.image, frame.time_s)
            peer.publishers["/camera/image"].publish(message)
            heard, stamp = peer.heard[f"{NODE}/navsat"], message.header.stamp
            answer = peer.until(lambda h=heard, s=stamp: [m for m in h if m.header.stamp == s], "an answer")[0]
            if (answer.status.status >= 0) != fix.is_believed:
                apart.append(math.inf)
            elif fix.is_believed:
                east, north = grid.from_wgs84(answer.latitude, answer.longitude)
                apart.append(math.hypot(float(east) - fix.easting_m, float(north) - fix.northing_m))
    worst = max(apart, default=math.nan)
    note = f"largest of the believed fixes of {len(frames)} updates" + (
        "" if math.isfinite(worst) else "; one side believed what the other did not"
    )
    value = worst if math.isfinite(worst) else None
    return [Figure("parity.fix_m", value, "m", len(apart), None, "<= 0.1", data=of_world(SIDE_M), note=note)]
