# What the scripts of this folder share; they source it, it does nothing by itself.
# shellcheck shell=bash

DRY_RUN=false
ALLOW_ROOT=false
LEFT=()  # what needs root and was not done

# Where /etc, /proc and /sys stand; a test puts a folder here.
SYSROOT="${KITTIWAKE_SYSROOT:-}"

fail() {  # fail MESSAGE [HINT] [STATUS]
    printf 'error: %s\n' "$1" >&2
    [[ -z "${2:-}" ]] || printf 'hint: %s\n' "$2" >&2
    exit "${3:-2}"
}

say() { printf '%s\n' "$*"; }

quoted() {  # the words as a shell would have to be given them
    local text
    printf -v text '%q ' "$@"
    printf '%s' "${text% }"
}

run() {  # run COMMAND…: shown, and done unless it is a dry run
    say "+ $(quoted "$@")"
    "$DRY_RUN" || "$@"
}

# as_root REASON COMMAND…: done with --allow-root or when a person at the terminal agrees; else shown and left.
# Fails when it was left.
as_root() {
    local reason=$1 answer=n
    shift
    say "needs root, $reason:"
    say "    sudo $(quoted "$@")"
    if "$DRY_RUN"; then
        return 0
    elif [[ $EUID -eq 0 ]]; then
        "$@"
        return
    elif "$ALLOW_ROOT"; then
        answer=y
    elif [[ -t 0 && -t 1 ]]; then
        read -r -p "do it now? [y/N] " answer
    fi
    if [[ "$answer" != [yY]* ]]; then
        LEFT+=("sudo $(quoted "$@")")
        return 1
    fi
    sudo "$@"
}

l4t_release() {  # as 36.4.3; empty on what is no Jetson
    local file="$SYSROOT/etc/nv_tegra_release"
    [[ ! -r "$file" ]] || sed -n '1s/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\),.*/\1.\2/p' "$file"
}

jetpack_of() {  # jetpack_of L4T: 6 or 7; empty for what Kittiwake does not support
    case "$1" in
        36.[4-9]*) echo 6 ;;
        38.* | 39.*) echo 7 ;;
    esac
}

board() { tr -d '\0' 2>/dev/null <"$SYSROOT/proc/device-tree/model" || true; }

meminfo_mib() {  # meminfo_mib MemTotal|MemAvailable
    awk -v key="$1:" '$1 == key { print int($2 / 1024) }' "$SYSROOT/proc/meminfo"
}

free_mib() {  # free_mib FOLDER: space on its disk; the folder need not be there yet
    local folder=$1
    while [[ ! -d "$folder" ]]; do folder=$(dirname "$folder"); done
    df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1024) }'
}

kittiwake_program() {  # kittiwake_program PREFIX: the one of the installation, else the one on PATH
    if [[ -x "$1/venv/bin/kittiwake" ]]; then
        echo "$1/venv/bin/kittiwake"
    else
        command -v kittiwake || fail "kittiwake is neither in $1/venv nor on PATH" "run jetson/install.sh"
    fi
}

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }
