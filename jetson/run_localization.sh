#!/usr/bin/env bash
# What kittiwake-localization.service starts: the ROS 2 node, watched. install.sh puts it into PREFIX/bin.
#
# The settings come from /etc/kittiwake/localization.env.

set -eo pipefail  # not -u: ROS's setup files read variables that are not set
PREFIX=$(dirname "$(dirname "$(readlink -f "$0")")")

for name in KITTIWAKE_MAP KITTIWAKE_CAMERA; do
    if [[ ! -r "${!name}" ]]; then
        echo "error: $name is '${!name}', which can't be read" >&2
        echo "hint: set it in /etc/kittiwake/localization.env, to a file that this service's user may read" >&2
        exit 2
    fi
done
setups=("${KITTIWAKE_ROS_ROOT:-/opt/ros}"/*/setup.bash)
if [[ ! -r "${setups[0]}" || ! -r "$PREFIX/ros/local_setup.bash" ]]; then
    echo "error: ROS 2 or the package kittiwake_ros is not installed" >&2
    echo "hint: install ROS 2 (see jetson/README.md), then run jetson/install.sh again" >&2
    exit 2
fi
# shellcheck disable=SC1090
source "${setups[0]}"
# shellcheck disable=SC1091
source "$PREFIX/ros/local_setup.bash"
# Several words are meant.
# shellcheck disable=SC2086
exec "$PREFIX/venv/bin/python" "$PREFIX/bin/supervise.py" uav_localization -- \
    ros2 launch kittiwake_ros uav_localization.launch.py \
    "map:=$KITTIWAKE_MAP" "camera:=$KITTIWAKE_CAMERA" $KITTIWAKE_LAUNCH_ARGUMENTS
