#!/usr/bin/env bash
# Builds TensorRT's engines for this Jetson: every bundle, every precision, one after the other.
#
#   jetson/build_engines.sh [--dry-run] [--force] [--precision P] [--prefix FOLDER] [BUNDLE…]
#
#   BUNDLE…          the bundles, by name or folder (default: all that are installed)
#   --precision P    fp32, fp16, int8 or fp8 (default: all that a bundle has)
#   --force          although the GPU is busy, or disk or memory are low
#   --prefix FOLDER  where install.sh put Kittiwake (default: /opt/kittiwake)
#   --dry-run        show the commands
#
# A kernel is chosen by timing it: another program on the GPU makes engines slow for ever. What was built before is
# found in the cache and not built again. Exit status: 0 all are there, 1 some could not be built, 2 not started.

set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"

PREFIX=/opt/kittiwake
PRECISION=all
FORCE=false
BUNDLES=()
while [[ $# -gt 0 ]]; do
    case "$1" in
        --dry-run) DRY_RUN=true ;;
        --force) FORCE=true ;;
        --precision) PRECISION=${2:?--precision needs a value}; shift ;;
        --prefix) PREFIX=${2:?--prefix needs a folder}; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) fail "unknown option $1" "see jetson/build_engines.sh --help" ;;
        *) BUNDLES+=("$1") ;;
    esac
    shift
done
KITTIWAKE=$(kittiwake_program "$PREFIX")
CACHE=${KITTIWAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kittiwake/engines}

refuse() {  # refuse MESSAGE HINT: unless it is forced
    "$FORCE" || fail "$1" "$2; or --force"
    say "note: $1"
}

# The load of the GPU in percent over two seconds, from tegrastats, on Thor from nvidia-smi; empty when neither tells.
gpu_load() {
    local file load=""
    file=$(mktemp -d)
    if "$KITTIWAKE" power run -o "$file/power.json" -- sleep 2 >/dev/null 2>&1; then
        load=$(python3 -c 'import json, sys; load = json.load(open(sys.argv[1]))["whole"]["gpu_percent"]
print("" if load is None else load)' "$file/power.json")
    fi
    rm -rf "$file"
    if [[ -z "$load" ]]; then
        load=$(nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null | head -n 1) || true
    fi
    [[ ! "$load" =~ ^[0-9]+(\.[0-9]+)?$ ]] || printf '%.0f' "$load"
}

check() {
    local load free available
    free=$(free_mib "$CACHE")
    [[ "$free" -ge 2048 ]] || refuse "$CACHE: $free MiB are free; engines want 2048" \
        "free some, or set KITTIWAKE_CACHE to a folder on another disk"
    available=$(meminfo_mib MemAvailable)
    [[ "$available" -ge 2048 ]] || refuse "$available MiB of memory are available; a build wants 2048" \
        "close programs, or stop the desktop (sudo systemctl isolate multi-user.target)"
    load=$(gpu_load)
    if [[ -z "$load" ]]; then
        say "note: nothing tells the GPU's load: make sure that nothing else uses it"
    elif [[ "$load" -ge 20 ]]; then
        refuse "the GPU is busy ($load %)" "end what uses it"
    fi
    say "disk $free MiB free, memory $available MiB available, GPU load ${load:-unknown} %"
}

if [[ ${#BUNDLES[@]} -eq 0 ]]; then
    mapfile -t BUNDLES < <("$KITTIWAKE" bundle info --json |
        python3 -c 'import json, sys; print(*(bundle["name"] for bundle in json.load(sys.stdin)), sep="\n")')
    [[ -n "${BUNDLES[0]:-}" ]] || fail "no bundles are installed" "pip install ./models, or set KITTIWAKE_MODELS"
fi
"$DRY_RUN" || check

failed=()
for i in "${!BUNDLES[@]}"; do
    say "[$((i + 1))/${#BUNDLES[@]}] ${BUNDLES[i]}"
    run "$KITTIWAKE" engine build "${BUNDLES[i]}" --precision "$PRECISION" || failed+=("${BUNDLES[i]}")
done
run "$KITTIWAKE" engine list
[[ ${#failed[@]} -eq 0 ]] || fail "not built: ${failed[*]}" "the reasons stand above" 1
