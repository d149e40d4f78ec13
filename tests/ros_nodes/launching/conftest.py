"""A recorder that stands in for `launch` and `launch_ros`: it executes a launch file and keeps what would be started.

It knows the few actions and substitutions that the launch files use, with their real signatures, so that an argument
that does not exist is an error here as well. Where ROS is installed, `test_launch_files.py` uses the real ones too.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
LAUNCH = ROOT / "ros_nodes" / "launch"


@dataclass
class Substitution:
    """A value that is known only once the arguments are."""

    evaluate: Callable[[dict[str, str]], str]


def launch_configuration(variable_name: str) -> Substitution:
    return Substitution(lambda known: known[variable_name])


def python_expression(expression: Sequence[Any]) -> Substitution:
    return Substitution(lambda known: str(eval(resolved(expression, known), {"__builtins__": {}})))


def resolved(value: Any, known: dict[str, str]) -> Any:
    """Text of a text, a substitution, or a list of both."""
    if isinstance(value, Substitution):
        return value.evaluate(known)
    if isinstance(value, list | tuple):
        return "".join(resolved(part, known) for part in value)
    return str(value)


@dataclass
class ParameterValue:
    value: Any
    value_type: type = str

    def evaluate(self, known: dict[str, str]) -> Any:
        text = resolved(self.value, known)
        if self.value_type is bool:
            return {"true": True, "false": False}[text.lower()]
        return self.value_type(text)


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: str | None = None
    description: str | None = None
    choices: Sequence[str] | None = None


@dataclass
class SetEnvironmentVariable:
    name: str
    value: Any


@dataclass
class IfCondition:
    predicate_expression: Any


@dataclass
class ExecuteProcess:
    cmd: Sequence[Any]
    shell: bool = False
    output: str = "log"
    emulate_tty: bool = False
    respawn: Any = False
    respawn_delay: float | None = None
    condition: IfCondition | None = None


@dataclass
class Node:
    package: str
    executable: str
    name: str | None = None
    namespace: Any = ""
    parameters: Sequence[Any] = ()
    remappings: Sequence[tuple[Any, Any]] = ()
    arguments: Sequence[Any] = ()
    ros_arguments: Sequence[Any] = ()
    output: str = "log"
    emulate_tty: bool = False
    respawn: Any = False
    respawn_delay: float | None = None
    condition: IfCondition | None = None


class LifecycleNode(Node):
    pass


@dataclass
class OnProcessExit:
    target_action: Any
    on_exit: Sequence[Any]


@dataclass
class RegisterEventHandler:
    event_handler: Any


@dataclass
class LaunchDescription:
    entities: list[Any]


@dataclass
class Started:
    """A node as it would be started."""

    package: str
    executable: str
    lifecycle: bool
    namespace: str
    parameter_files: list[str]
    parameters: dict[str, Any]
    remappings: dict[str, str]
    ros_arguments: list[str]
    respawn: bool
    environment: dict[str, str]
    after: str = ""


@dataclass
class Launched:
    """What a launch file does."""

    arguments: dict[str, DeclareLaunchArgument] = field(default_factory=dict)
    nodes: dict[str, Started] = field(default_factory=dict)
    processes: list[str] = field(default_factory=list)


class Recorder:
    """Executes launch files."""

    def run(self, name: str, **given: str) -> Launched:
        """What ``ros2 launch kittiwake_ros <name> key:=value`` does; a missing or unknown argument is an error."""
        spec = importlib.util.spec_from_file_location("launched", LAUNCH / name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = Launched()
        known: dict[str, str] = {}
        environment: dict[str, str] = {}
        self._execute(module.generate_launch_description().entities, given, known, environment, found, "")
        unknown = set(given) - set(found.arguments)
        assert not unknown, f"{name} has no argument {unknown}"
        return found

    def _execute(
        self,
        entities: Sequence[Any],
        given: dict[str, str],
        known: dict[str, str],
        environment: dict[str, str],
        found: Launched,
        after: str,
    ) -> None:
        for entity in entities:
            condition = getattr(entity, "condition", None)
            if condition and resolved(condition.predicate_expression, known).lower() not in ("true", "1"):
                continue
            if isinstance(entity, DeclareLaunchArgument):
                value = given.get(entity.name, entity.default_value)
                if value is None:
                    raise RuntimeError(f"Required launch argument '{entity.name}' was not provided")
                if entity.choices and value not in entity.choices:
                    raise RuntimeError(f"{entity.name}: {value} is not one of {entity.choices}")
                known[entity.name] = value
                found.arguments[entity.name] = entity
            elif isinstance(entity, SetEnvironmentVariable):
                environment[entity.name] = resolved(entity.value, known)
            elif isinstance(entity, RegisterEventHandler):
                target = " ".join(resolved(word, known) for word in entity.event_handler.target_action.cmd)
                self._execute(entity.event_handler.on_exit, given, known, environment, found, target)
            elif isinstance(entity, ExecuteProcess):
                found.processes.append(" ".join(resolved(word, known) for word in entity.cmd))
            elif isinstance(entity, Node):
                found.nodes[entity.executable] = self._started(entity, known, environment, after)
            else:
                raise TypeError(f"the recorder does not know {entity}")

    @staticmethod
    def _started(node: Node, known: dict[str, str], environment: dict[str, str], after: str) -> Started:
        files, parameters = [], {}
        for source in node.parameters:
            if isinstance(source, dict):
                for name, value in source.items():
                    typed = isinstance(value, ParameterValue)
                    parameters[name] = value.evaluate(known) if typed else resolved(value, known)
            else:
                files.append(resolved(source, known))
        return Started(
            package=node.package,
            executable=node.executable,
            lifecycle=isinstance(node, LifecycleNode),
            namespace=resolved(node.namespace, known),
            parameter_files=files,
            parameters=parameters,
            remappings={resolved(a, known): resolved(b, known) for a, b in node.remappings},
            ros_arguments=[resolved(word, known) for word in node.ros_arguments],
            respawn=resolved(node.respawn, known).lower() == "true",
            environment=dict(environment),
            after=after,
        )


MODULES: dict[str, dict[str, Any]] = {
    "launch": {"LaunchDescription": LaunchDescription},
    "launch.actions": {
        "DeclareLaunchArgument": DeclareLaunchArgument,
        "ExecuteProcess": ExecuteProcess,
        "RegisterEventHandler": RegisterEventHandler,
        "SetEnvironmentVariable": SetEnvironmentVariable,
    },
    "launch.conditions": {"IfCondition": IfCondition},
    "launch.event_handlers": {"OnProcessExit": OnProcessExit},
    "launch.substitutions": {
        "LaunchConfiguration": launch_configuration,
        "PythonExpression": python_expression,
    },
    "launch_ros": {},
    "launch_ros.actions": {"LifecycleNode": LifecycleNode, "Node": Node},
    "launch_ros.parameter_descriptions": {"ParameterValue": ParameterValue},
}


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The recorder, with its stand-ins in place of `launch` and `launch_ros`."""
    for name, contents in MODULES.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "kittiwake_ros.launching", raising=False)
    return Recorder()
