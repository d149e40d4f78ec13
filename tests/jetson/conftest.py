"""A Jetson as far as the scripts see one: files below a folder, and programs on PATH that note how they were called."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JETSON = ROOT / "jetson"
NOT_ROOT = ["unshare", "--user"] if os.geteuid() == 0 else []  # where the tests run as root, as in a container

# As tests/runtime/test_tegrastats.py has it: an Orin Nano Super, JetPack 6.2.
TEGRASTATS_LINE = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) "
    "CPU [38%@1497,2%@729,1%@729,0%@729,1%@729,0%@729] EMC_FREQ 61%@2133 GR3D_FREQ {load}%@[612] NVDEC off APE 200 "
    "cpu@57.125C gpu@58.625C tj@58.312C VDD_IN 8000mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/3659mW"
)

# `nvpmodel` of an Orin Nano Super: three modes, of which the third wants a reboot, and asks. The real one prints so.
NVPMODEL = """
names=(15W 25W MAXN_SUPER)
mode=$(cat "{state}")
case "$1" in
    -q) printf 'NV Power Mode: %s\\n%s\\n' "${{names[mode]}}" "$mode" ;;
    -p) for i in 0 1 2; do echo "NVPM VERB: POWER_MODEL: ID=$i NAME=${{names[i]}}"; done ;;
    -m)
        if [[ "$2" == 2 ]]; then
            read -r -p 'DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm: ' answer
            [[ "$answer" != YES ]] || touch "{state}.rebooted"
            exit 0
        fi
        echo "$2" > "{state}"
        ;;
esac
"""

# What `sudo` does for scripts: its own options go, the rest is run.
SUDO = """
while [[ "$1" == -* ]]; do shift; done
[[ $# -eq 0 ]] || exec "$@"
"""

# `python3` as far as install.sh asks it.
PYTHON = """
case "$*" in
    *print*version_info*) echo {version} ;;
    *sys.exit*) exit {too_old} ;;
    *tensorrt*) {tensorrt} ;;
esac
"""

RELEASES = {6: ("36 (release), REVISION: 4.3", "3.10"), 7: ("39 (release), REVISION: 2.0", "3.12")}


def _listen() -> None:
    """A script can't trap what was ignored when it began, as under nohup or in a shell's background job."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@dataclass
class Board:
    """The files and programs of one, in ``folder``."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        path = self.folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def program(self, name: str, script: str = "") -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{self.folder}/calls"\n{script}\n')
        path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        return {
            **os.environ,
            "PATH": path,
            "KITTIWAKE_SYSROOT": str(self.folder / "root"),
            "KITTIWAKE_CACHE": str(self.folder / "cache"),
        }

    def start(self, script: str, *words: str) -> subprocess.Popen[str]:
        """A script, running: without a terminal, not as root, in a process group of its own."""
        command = [*NOT_ROOT, str(JETSON / script), *words]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_listen,
        )

    def run(self, script: str, *words: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        process = self.start(script, *words)
        out, err = process.communicate(timeout=seconds)
        return subprocess.CompletedProcess([script, *words], process.returncode, out, err)

    def calls(self, *names: str) -> list[str]:
        """How programs were called, in order; all of them, or those named."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not names or line.split(" ")[0] in names]

    def files(self) -> set[str]:
        """Everything below the folder but what the tests themselves made."""
        made = {"calls", "bin", "root"}
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        return {str(path) for path in found if path.parts[0] not in made}

    def python(self, version: str, tensorrt: str = "echo 10.3.0") -> None:
        self.program("python3", PYTHON.format(version=version, too_old=int(version == "3.8"), tensorrt=tensorrt))

    def jetpack(self, number: int) -> None:
        release, version = RELEASES[number]
        self.write("etc/nv_tegra_release", f"# R{release}, GCID: 1, BOARD: generic, EABI: aarch64, DATE: x\n")
        self.python(version)

    def tegrastats(self, load: int = 99) -> None:
        self.program("tegrastats", f"while :; do echo '{TEGRASTATS_LINE.format(load=load)}'; sleep 0.05; done")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """An Orin Nano Super with JetPack 6.2, in power mode 1 (25W)."""
    made = Board(tmp_path)
    made.write("proc/device-tree/model", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0")
    made.write("proc/meminfo", "MemTotal:        7802784 kB\nMemFree:   521336 kB\nMemAvailable:    4521336 kB\n")
    (tmp_path / "root" / "mode").write_text("1\n")
    made.program("nvpmodel", NVPMODEL.format(state=tmp_path / "root" / "mode"))
    made.program("jetson_clocks", '[[ "$1" != --store ]] || echo stored > "$2"')
    made.program("sudo", SUDO)
    made.program("uname", "echo aarch64")
    made.tegrastats()
    made.jetpack(6)
    return made
