#!/usr/bin/env bash
# Installs Kittiwake on a Jetson with JetPack 6.1–6.2 or 7: checks, an environment, the runtime and the models.
#
#   jetson/install.sh [--dry-run] [--prefix FOLDER] [--service] [--allow-root]
#
#   --dry-run        check, and show every command that would be run; changes nothing
#   --prefix FOLDER  where it goes (default: /opt/kittiwake)
#   --service        install the systemd service too; it is neither enabled nor started
#   --allow-root     do what needs root without asking; otherwise a terminal is asked, and a script only shows it
#
# May be run again: what is done is not done twice. Exit status: 0 done, 2 this machine won't do, 3 something that needs
# root was left; it is shown, and the same command goes on from there.

set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
REPOSITORY=$(dirname "$HERE")
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"

PREFIX=/opt/kittiwake
SERVICE=false
while [[ $# -gt 0 ]]; do
    case "$1" in
        --dry-run) DRY_RUN=true ;;
        --allow-root) ALLOW_ROOT=true ;;
        --service) SERVICE=true ;;
        --prefix) PREFIX=${2:?--prefix needs a folder}; shift ;;
        -h | --help) usage; exit 0 ;;
        *) fail "unknown option $1" "see jetson/install.sh --help" ;;
    esac
    shift
done
[[ "$PREFIX" == /* && "$PREFIX" != *[\ \|\\]* ]] || fail "--prefix $PREFIX: expected an absolute path without spaces"

# What JetPack brings: Python, TensorRT, ROS, and the space that wheels and engines take.
check() {
    L4T=$(l4t_release)
    [[ -n "$L4T" ]] ||
        fail "this is no Jetson: there is no /etc/nv_tegra_release" "elsewhere: pip install ./runtime ./models"
    JETPACK=$(jetpack_of "$L4T")
    [[ -n "$JETPACK" ]] || fail "L4T $L4T is not supported; expected 36.4 or newer" "flash JetPack 6.2 or 7.2"
    [[ "$(uname -m)" == aarch64 ]] || fail "$(uname -m) is no architecture of a Jetson; expected aarch64"
    say "board     $(board), L4T $L4T, JetPack $JETPACK"

    PYTHON=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "python3 does not start"
    local expected=3.10 space_mib=3000
    ROS=/opt/ros/humble
    [[ "$JETPACK" == 6 ]] || { expected=3.12; space_mib=4500; ROS=/opt/ros/jazzy; }
    [[ "$PYTHON" == "$expected" ]] ||
        say "note: python3 is $PYTHON, JetPack's is $expected: TensorRT and ROS are there for JetPack's alone"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "Python $PYTHON is too old; expected 3.10"
    say "python    $PYTHON"

    local free total
    free=$(free_mib "$PREFIX")
    [[ -x "$PREFIX/venv/bin/kittiwake" || "$free" -ge "$space_mib" ]] ||
        fail "$PREFIX: $free MiB are free; expected $space_mib" "free some, or choose another disk with --prefix"
    total=$(meminfo_mib MemTotal)
    say "disk      $free MiB free"
    say "memory    $total MiB, $(meminfo_mib MemAvailable) MiB available"
    [[ "$total" -ge 7000 ]] || say "note: with less than 8 GB build engines without a desktop running"

    local tensorrt
    if tensorrt=$(python3 -c 'import tensorrt; print(tensorrt.__version__)' 2>/dev/null); then
        say "tensorrt  $tensorrt"
    else
        say "tensorrt  none that python3 can import: networks would run in ONNX Runtime alone"
        as_root "for TensorRT's Python bindings" apt-get install --yes python3-libnvinfer || true
    fi
    python3 -c 'import venv, ensurepip' 2>/dev/null ||
        as_root "for Python's module venv" apt-get install --yes python3-venv || left
}

# Stops where what comes next needs what was left.
left() {
    printf 'left, for it needs root:\n' >&2
    printf '    %s\n' "${LEFT[@]}" >&2
    printf 'hint: run it and then this again, or give --allow-root\n' >&2
    exit 3
}

environment() {
    if [[ ! -w "$PREFIX" ]]; then
        if [[ -w "$(dirname "$PREFIX")" ]]; then
            run mkdir -p "$PREFIX"
        else
            as_root "for a folder of your own" install -d -o "$(id -un)" "$PREFIX" || left
        fi
    fi
    # ROS and TensorRT come from JetPack's own Python, which the environment sees.
    [[ -x "$PREFIX/venv/bin/python" ]] || run python3 -m venv --system-site-packages "$PREFIX/venv"
}

# The sources and the choices that the environment was made from.
recipe() {
    (cd "$REPOSITORY" && find runtime models jetson/constraints.txt -type f \
        -not -path '*/build/*' -not -path '*.egg-info/*' -not -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
    echo "jetpack$JETPACK python$PYTHON") | sha256sum | cut -d' ' -f1
}

packages() {
    local pip=("$PREFIX/venv/bin/python" -m pip) stamp="$PREFIX/venv/kittiwake.sha256" wanted
    wanted=$(recipe)
    if [[ "$(cat "$stamp" 2>/dev/null)" == "$wanted" ]]; then
        say "packages  are up to date"
        return
    fi
    run "${pip[@]}" install --upgrade --upgrade-strategy only-if-needed -c "$HERE/constraints.txt" \
        "$REPOSITORY/runtime[jetpack$JETPACK]" "$REPOSITORY/models"
    # onnxruntime and onnxruntime-gpu are one module: the second must come last, and alone. For JetPack 6 there is none.
    if [[ "$JETPACK" == 7 ]]; then
        run "${pip[@]}" uninstall --yes onnxruntime onnxruntime-gpu
        run "${pip[@]}" install --no-deps 'onnxruntime-gpu>=1.31'
    fi
    "$DRY_RUN" || echo "$wanted" >"$stamp"
}

ros() {
    if [[ ! -d "$SYSROOT$ROS" || ! -d "$REPOSITORY/ros_nodes" ]]; then
        say "ros       no $ROS: the node is not built (see jetson/README.md)"
        return
    fi
    run "$PREFIX/venv/bin/python" -m pip install colcon-common-extensions
    # ROS's setup file reads variables that are not set.
    run bash -c "source '$SYSROOT$ROS/setup.bash' && cd '$REPOSITORY' && '$PREFIX/venv/bin/python' -m colcon build \
--base-paths ros_nodes --build-base '$PREFIX/ros-build' --install-base '$PREFIX/ros'"
    run install -D -m 755 "$HERE/run_localization.sh" "$PREFIX/bin/run_localization"
    run install -D -m 644 "$HERE/supervise.py" "$PREFIX/bin/supervise.py"
}

service() {
    local unit=kittiwake-localization.service made
    made=$(mktemp)
    sed "s|/opt/kittiwake|$PREFIX|g" "$HERE/$unit" >"$made"
    id kittiwake >/dev/null 2>&1 || as_root "for a user of the service's own, who may use the GPU and nothing else" \
        useradd --system --no-create-home --shell /usr/sbin/nologin --groups video,render kittiwake || true
    as_root "for its map and its engines" \
        install -d -o kittiwake -g kittiwake /var/lib/kittiwake /var/cache/kittiwake || true
    [[ -e "$SYSROOT/etc/kittiwake/localization.env" ]] || as_root "for the service's settings" \
        install -D -m 644 "$HERE/localization.env" /etc/kittiwake/localization.env || true
    as_root "for the service" install -D -m 644 "$made" "/etc/systemd/system/$unit" || true
    as_root "for systemd to see it" systemctl daemon-reload || true
    "$DRY_RUN" && rm -f "$made"
    say "service   $unit: set map and camera in /etc/kittiwake/localization.env, then sudo systemctl enable --now $unit"
}

check
environment
packages
ros
if "$SERVICE"; then service; fi
run "$PREFIX/venv/bin/kittiwake" doctor
[[ ${#LEFT[@]} -eq 0 ]] || left
say "done: $PREFIX/venv/bin/kittiwake; next: jetson/build_engines.sh"
