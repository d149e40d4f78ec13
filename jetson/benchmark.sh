#!/usr/bin/env bash
# Measures bundles on this Jetson: time, joules an inference, temperatures and throttling, in one power mode or several.
#
#   jetson/benchmark.sh [options] [BUNDLE…]
#
#   BUNDLE…          the bundles, by name or folder (default: all that are installed)
#   --backend B      of `kittiwake bench`: cpu, cuda or tensorrt, with a precision as tensorrt:fp16; may be repeated
#                    (default: tensorrt and cpu)
#   --allow-root     use sudo: for the GPU's clocks, --modes and --pin; without it the board is left as it is
#   --modes IDS      power modes, as "0 2" or all (default: the present one)
#   --pin            pin the clocks to the highest of each mode (jetson_clocks)
#   --settle-s S     wait so long before each run, for the board to cool (default: 20)
#   --output FOLDER  where results go (default: out/jetson)
#   --prefix FOLDER  where install.sh put Kittiwake (default: /opt/kittiwake)
#   --dry-run        show the commands; changes nothing
#
# Power mode and clocks are set back to what was found, also after an error, Ctrl-C or SIGTERM. A mode that needs a
# reboot is passed over. For each run there are FOLDER/RUN.bench.json, RUN.power.json and RUN.power.log, and a table of
# all in FOLDER/table.md.

set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"

PREFIX=/opt/kittiwake
OUTPUT=out/jetson
BACKENDS=()
BUNDLES=()
MODES=""
PIN=false
SETTLE_S=20
while [[ $# -gt 0 ]]; do
    case "$1" in
        --dry-run) DRY_RUN=true ;;
        --allow-root) ALLOW_ROOT=true ;;
        --pin) PIN=true ;;
        --backend) BACKENDS+=("${2:?--backend needs a value}"); shift ;;
        --modes) MODES=${2:?--modes needs a list or all}; shift ;;
        --settle-s) SETTLE_S=${2:?--settle-s needs seconds}; shift ;;
        --output) OUTPUT=${2:?--output needs a folder}; shift ;;
        --prefix) PREFIX=${2:?--prefix needs a folder}; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) fail "unknown option $1" "see jetson/benchmark.sh --help" ;;
        *) BUNDLES+=("$1") ;;
    esac
    shift
done
[[ ${#BACKENDS[@]} -gt 0 ]] || BACKENDS=(tensorrt cpu)
if { [[ -n "$MODES" ]] || "$PIN"; } && ! "$ALLOW_ROOT"; then
    fail "--modes and --pin change the board, which needs root" "give --allow-root too"
fi
KITTIWAKE=$(kittiwake_program "$PREFIX")

CLOCKS=""  # the file that the clocks were stored in
FOUND=""   # the power mode that was found
CHILD=""   # what runs now
KEEPER=""  # keeps sudo's ticket fresh

ask_nvpmodel() { nvpmodel "$@" </dev/null 2>/dev/null || true; }

current_mode() { ask_nvpmodel -q | sed -n '/^[0-9][0-9]*$/p' | tail -n 1; }

mode_name() { ask_nvpmodel -q | sed -n 's/^NV Power Mode: *//p'; }

all_modes() { ask_nvpmodel -p --verbose | sed -n 's/.*POWER_MODEL: *ID=\([0-9]*\).*/\1/p' | sort -nu; }

wait_for() {  # wait_for COMMAND…: so that a signal is acted upon at once
    "$@" &
    CHILD=$!
    local status=0
    wait "$CHILD" || status=$?
    CHILD=""
    return "$status"
}

restore() {
    trap '' INT TERM HUP  # once begun, it is finished
    if [[ -n "$CHILD" ]]; then
        kill -TERM "$CHILD" 2>/dev/null || true
        wait "$CHILD" 2>/dev/null || true
    fi
    if [[ -n "$FOUND" && "$(current_mode)" != "$FOUND" ]]; then
        run sudo -n nvpmodel -m "$FOUND" </dev/null || say "error: set the power mode back: sudo nvpmodel -m $FOUND" >&2
    fi
    if [[ -n "$CLOCKS" ]]; then
        run sudo -n jetson_clocks --restore "$CLOCKS" || say "error: reboot, for the clocks to be free again" >&2
        rm -f "$CLOCKS"
    fi
    [[ -z "$KEEPER" ]] || kill "$KEEPER" 2>/dev/null || true
}

set_mode() {  # set_mode ID: fails when the board does not take it without a reboot, which is answered with no
    [[ "$(current_mode)" == "$1" ]] && return
    run sudo -n nvpmodel -m "$1" <<<no || true
    "$DRY_RUN" || [[ "$(current_mode)" == "$1" ]]
}

measure() {  # measure BUNDLE BACKEND: in the present mode
    local mode name
    mode=$(mode_name)
    name="$(basename "$1")-${2//:/-}-${mode:-unknown}"
    local power=("$KITTIWAKE" power run -o "$OUTPUT/$name.power.json" --bench "$OUTPUT/$name.bench.json")
    ! "$ALLOW_ROOT" || power+=(--sudo)
    ! "$PIN" || power+=(--pinned)
    power+=(-- "$KITTIWAKE" bench "$1" --backend "$2" -o "$OUTPUT/$name.bench.json")
    say "+ $(quoted "${power[@]}")"
    ! "$DRY_RUN" || return 0
    wait_for sleep "$SETTLE_S"
    wait_for "${power[@]}" || { FAILED+=("$name"); return 0; }
    TABLE+=("$OUTPUT/$name.power.json")
}

if [[ ${#BUNDLES[@]} -eq 0 ]]; then
    mapfile -t BUNDLES < <("$KITTIWAKE" bundle info --json |
        python3 -c 'import json, sys; print(*(bundle["name"] for bundle in json.load(sys.stdin)), sep="\n")')
fi
if "$ALLOW_ROOT" && ! "$DRY_RUN"; then
    sudo -v || fail "sudo gives no root"
    (while sleep 60; do sudo -n true; done) </dev/null >/dev/null 2>&1 &
    KEEPER=$!
fi
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

modes=("")
if [[ -n "$MODES" ]]; then
    FOUND=$(current_mode)
    [[ -n "$FOUND" ]] || fail "nvpmodel does not tell the power mode" "run nvpmodel -q by hand"
    say "found power mode $FOUND ($(mode_name)); by hand: sudo nvpmodel -m $FOUND"
    [[ "$MODES" != all ]] || MODES=$(all_modes)
    read -r -a modes <<<"${MODES//$'\n'/ }"
fi
if "$PIN"; then
    clocks=$(mktemp)
    rm -f "$clocks"  # jetson_clocks does not write over a file
    run sudo -n jetson_clocks --store "$clocks"
    "$DRY_RUN" || CLOCKS=$clocks
fi
"$DRY_RUN" || mkdir -p "$OUTPUT"
FAILED=()
TABLE=()
for mode in "${modes[@]}"; do
    if [[ -n "$mode" ]] && ! set_mode "$mode"; then
        say "note: power mode $mode is passed over: the board does not take it without a reboot"
        continue
    fi
    ! "$PIN" || run sudo -n jetson_clocks
    for bundle in "${BUNDLES[@]}"; do
        for backend in "${BACKENDS[@]}"; do measure "$bundle" "$backend"; done
    done
done
if [[ ${#TABLE[@]} -gt 0 ]]; then
    "$KITTIWAKE" power table "${TABLE[@]}" | tee "$OUTPUT/table.md"
fi
[[ ${#FAILED[@]} -eq 0 ]] || fail "not measured: ${FAILED[*]}" "the reasons stand above" 1
