"""The systemd unit: systemd's own verification and review, and the paths and programs that it names."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JETSON = ROOT / "jetson"
UNIT = JETSON / "kittiwake-localization.service"


def unit() -> dict[str, dict[str, list[str]]]:
    """Sections, each with its keys and all their values."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            sections.setdefault(section, {}).setdefault(key, []).append(value)
    return sections


def analyze(*words: str, root: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine")
    help_text = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    if "--offline" not in help_text:
        pytest.skip("this systemd-analyze is older than 250: it can't look at units of another root")
    environment = {"PATH": "/usr/bin:/bin", "SYSTEMD_LOG_LEVEL": "warning"}
    return subprocess.run([program, f"--root={root}", *words], capture_output=True, text=True, env=environment)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root in which the unit stands where install.sh puts it, with the program that it starts."""
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    shutil.copy(UNIT, folder)
    program = tmp_path / "opt/kittiwake/bin/run_localization"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def verified(root: Path) -> subprocess.CompletedProcess[str]:
    return analyze("verify", "--recursive-errors=no", "--man=no", f"/etc/systemd/system/{UNIT.name}", root=root)


def test_systemd_verifies_it(installed: Path) -> None:
    done = verified(installed)
    own = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, own) == (0, []), done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("WatchdogSec=15", "WatchdogSec=fifteen"),
        ("ProtectSystem=strict", "ProtectSytem=strict"),
        ("/opt/kittiwake/bin/run_localization", "/opt/kittiwake/bin/something_else"),
    ],
)
def test_the_verification_finds_what_is_wrong(wrong: str, message: str, installed: Path) -> None:
    path = installed / "etc/systemd/system" / UNIT.name
    path.write_text(path.read_text().replace(wrong, message))
    done = verified(installed)
    assert UNIT.name in done.stderr


def test_systemds_review_finds_little_exposure(installed: Path) -> None:
    """0 is a sandbox, 10 none; 40 of 100 is what a service with the network and a GPU can have at most here."""
    done = analyze("security", "--offline=true", "--threshold=40", f"/etc/systemd/system/{UNIT.name}", root=installed)
    assert done.returncode == 0, done.stdout


def test_the_watchdog_is_fed_more_often_than_it_bites() -> None:
    service = unit()["Service"]
    assert service["Type"] == ["notify"]
    assert float(service["WatchdogSec"][0]) >= 10  # diagnostics come every second
    assert float(service["TimeoutStopSec"][0]) > float(
        re.search(r"^LAUNCH_ENDS_S = ([\d.]+)$", (JETSON / "supervise.py").read_text(), re.MULTILINE)[1]
    )
    assert service["Restart"] == ["always"]


def test_what_it_reads_is_what_install_writes() -> None:
    service, script = unit()["Service"], (JETSON / "install.sh").read_text()
    assert service["EnvironmentFile"][0] in script
    assert service["ExecStart"][0].removeprefix("/opt/kittiwake") in script
    assert f"--groups {service['SupplementaryGroups'][0].replace(' ', ',')} {service['User'][0]}" in script
    settings = configparser.ConfigParser()
    settings.optionxform = str
    settings.read_string("[env]\n" + (JETSON / "localization.env").read_text())
    used = set(re.findall(r"\b(KITTIWAKE_(?!ROS_ROOT)\w+)", (JETSON / "run_localization.sh").read_text()))
    assert used <= set(settings["env"])
