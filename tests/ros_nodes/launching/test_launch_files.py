"""The launch files do what they say: arguments, nodes, parameters, remappings, the profile; and their YAML is true."""

# ruff: noqa: E402 (the imports of ROS come after the question whether it is there)
from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from kittiwake_ros.parameters import checked
from kittiwake_ros.resources import config, profile_variable
from kittiwake_ros.settings import Settings
from kittiwake_ros.simulator_settings import FlightSettings
from kittiwake_ros.uav_localization import UavLocalization

ROOT = Path(__file__).resolve().parents[3] / "ros_nodes"
FILES = sorted(path.name for path in (ROOT / "launch").glob("*.launch.py"))
NEEDED = {"uav_localization.launch.py": {"map", "camera"}, "px4.launch.py": {"map", "camera"}, "demo.launch.py": set()}
GIVEN = {"map": "area.kwmap", "camera": "camera.yaml"}
DECLARED: dict[str, Any] = {"uav_localization": Settings, "flight_simulator": FlightSettings}


def given(name: str, **more: str) -> dict[str, str]:
    return {key: value for key, value in GIVEN.items() if key in NEEDED[name]} | more


def test_every_file_is_known() -> None:
    assert set(FILES) == set(NEEDED)


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_described_and_only_the_needed_ones_have_no_default(recorder: Any, name: str) -> None:
    arguments = recorder.run(name, **given(name)).arguments
    assert [argument.name for argument in arguments.values() if not argument.description] == []
    assert {argument.name for argument in arguments.values() if argument.default_value is None} == NEEDED[name]
    for key in NEEDED[name]:
        with pytest.raises(RuntimeError, match=f"'{key}' was not provided"):
            recorder.run(name, **{other: value for other, value in given(name).items() if other != key})


@pytest.mark.parametrize("name", FILES)
def test_nodes_start_by_themselves_again_and_with_the_transport_profile(recorder: Any, name: str) -> None:
    for node in recorder.run(name, **given(name)).nodes.values():
        assert (node.package, node.lifecycle, node.respawn) == ("kittiwake_ros", True, True)
        assert node.parameters["autostart"] is True
        assert node.parameters["use_sim_time"] is False
        assert node.environment[profile_variable()] == str(config("fastdds_shm.xml"))
        assert node.parameter_files == [str(config(Path(file).name)) for file in node.parameter_files]
        assert node.ros_arguments == ["--log-level", "info"]
    changed = recorder.run(
        name,
        **given(name, autostart="false", respawn="false", namespace="/uav1", use_sim_time="true", log_level="debug"),
    )
    for node in changed.nodes.values():
        assert (node.namespace, node.respawn, node.ros_arguments[-1]) == ("/uav1", False, "debug")
        assert (node.parameters["autostart"], node.parameters["use_sim_time"]) == (False, True)


@pytest.mark.parametrize("name", FILES)
def test_what_is_set_is_declared_by_the_node_and_in_range(recorder: Any, name: str) -> None:
    for node in recorder.run(name, **given(name)).nodes.values():
        kind = DECLARED[node.executable]
        declared = {field.name for field in dataclasses.fields(kind)}
        (file,) = node.parameter_files
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        from_file = content.get(f"/**/{node.executable}", {}).get("ros__parameters", {})
        assert set(from_file) <= declared
        assert set(node.parameters) <= declared | {"use_sim_time"}
        for key, value in {**from_file, **node.parameters}.items():
            if key != "use_sim_time":
                checked(kind, key, value)


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "config").glob("*.yaml")))
def test_yaml_names_known_nodes_and_says_what_each_value_is_for(file: str) -> None:
    text = config(file).read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert content
    for pattern, block in content.items():
        executable = pattern.removeprefix("/**/")
        for key, value in block["ros__parameters"].items():
            checked(DECLARED[executable], key, value)
    assert re.search(r"^# ", text, flags=re.MULTILINE)


@pytest.mark.parametrize("namespace", ["/", "/fleet/uav1"])
def test_the_yaml_reaches_the_node_in_any_namespace(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    rclpy.init(context=context)
    words = ["--ros-args", "--params-file", str(config("px4.yaml")), "-r", f"__ns:={namespace}"]
    node = UavLocalization(context=context, cli_args=words)
    found = node.get_parameter("height_source").value
    assert (node.get_namespace(), found) == (namespace, "autopilot")
    assert Settings().height_source != found
    node.close()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_topics_are_remapped_by_arguments(recorder: Any) -> None:
    name = "uav_localization.launch.py"
    plain = recorder.run(name, **given(name)).nodes["uav_localization"]
    assert all(topic == target for topic, target in plain.remappings.items())
    node = recorder.run(name, **given(name, image="/cam0/image_raw", imu="/mavros/imu/data")).nodes["uav_localization"]
    assert node.remappings["camera/image"] == "/cam0/image_raw"
    assert node.remappings["camera/image/compressed"] == "/cam0/image_raw/compressed"
    assert node.remappings["imu"] == "/mavros/imu/data"
    assert (node.parameters["map"], node.parameters["camera"]) == ("area.kwmap", "camera.yaml")


def test_px4_starts_in_the_shadow_and_its_agent_only_when_asked(recorder: Any) -> None:
    name = "px4.launch.py"
    plain = recorder.run(name, **given(name))
    assert plain.processes == []
    parameters = plain.nodes["uav_localization"].parameters
    assert (parameters["autopilot"], parameters["mode"], parameters["px4_source_id"]) == ("px4", "shadow", 1)
    full = recorder.run(
        name, **given(name, mode="active", agent="udp4 -p 8888", px4_source_id="3", px4_namespace="/px4_1")
    )
    assert full.processes == ["MicroXRCEAgent udp4 -p 8888"]
    assert full.nodes["uav_localization"].parameters["px4_namespace"] == "/px4_1"
    assert full.nodes["uav_localization"].parameters["px4_source_id"] == 3
    with pytest.raises(RuntimeError, match="not one of"):
        recorder.run(name, **given(name, mode="on"))


def test_the_demo_flies_once_its_map_is_there(recorder: Any) -> None:
    found = recorder.run("demo.launch.py", folder="here", seed="5", side_m="2000", season="winter")
    (prepare,) = found.processes
    assert prepare == "python3 -m kittiwake_ros.demo --prepare --output here --seed 5 --side-m 2000"
    assert set(found.nodes) == {"flight_simulator", "uav_localization"}
    assert {node.after for node in found.nodes.values()} == {prepare}
    flight = found.nodes["flight_simulator"].parameters
    assert (flight["seed"], flight["side_m"], flight["season"]) == (5, 2000.0, "winter")
    assert found.nodes["uav_localization"].parameters["map"] == "here/area.kwmap"


def test_rviz_comes_when_asked(recorder: Any) -> None:
    assert "rviz2" in recorder.run("demo.launch.py", rviz="true").nodes


def test_the_profile_gives_every_participant_64_mb() -> None:
    space = {"dds": "http://www.eprosima.com"}
    tree = ElementTree.parse(config("fastdds_shm.xml"))
    assert [int(size.text or 0) for size in tree.findall(".//dds:segment_size", space)] == [64 * 2**20]
    used = [entry.text for entry in tree.findall(".//dds:userTransports/dds:transport_id", space)]
    defined = [entry.text for entry in tree.findall(".//dds:transport_descriptor/dds:transport_id", space)]
    assert used == defined


def test_the_vehicles_file_has_px4s_names_types_and_ranges() -> None:
    rows = [line.split("\t") for line in config("px4.params").read_text().splitlines() if not line.startswith("#")]
    found = {name: (float(value), {"6": int, "9": float}[kind]) for _, _, name, value, kind in rows}
    # From PX4's params_aux_global_position.yaml: name, type, least, most.
    slots = {"CTRL": (int, 0, 3), "MODE": (int, 0, 1), "DELAY": (float, 0, 1000), "NOISE": (float, 0.01, 1e9),
             "GATE": (float, 1, 1e9)}  # fmt: skip
    known = {f"EKF2_{slot}_{name}": limits for slot in ("AGP", "AGP0") for name, limits in slots.items()}
    known |= {"EKF2_AGP0_ID": (int, 0, 255), "UXRCE_DDS_SYNCT": (int, 0, 1)}
    assert found.keys() == known.keys()
    for name, (value, kind) in found.items():
        expected, least, most = known[name]
        assert kind is expected
        assert least <= value <= most
    assert found["EKF2_AGP0_ID"][0] == Settings().px4_source_id
    assert int(found["EKF2_AGP0_CTRL"][0]) & 1
    assert int(found["EKF2_AGP_CTRL"][0]) & 1


@pytest.mark.parametrize("name", FILES)
def test_the_real_launch_shows_the_arguments(name: str) -> None:
    if importlib.util.find_spec("launch_ros") is None or importlib.util.find_spec("ros2launch") is None:
        pytest.skip("launch_ros and ros2launch are not installed (they come with ROS from apt)")
    script = "import sys; from ros2cli.cli import main; sys.exit(main(argv=sys.argv[1:]))"
    command = [sys.executable, "-c", script, "launch", str(ROOT / "launch" / name), "--show-args"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(f"'{key}'" in done.stdout for key in ("namespace", "autostart", *NEEDED[name]))
