# Sourced by the scripts: makes or refreshes .venv beside them and sets `root` and `venv`.
# Needs a Python of at least 3.11 with its venv module, and nothing else.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
venv=$root/.venv

# A python3.13 may be there and not work (version managers leave stand-ins), so each is tried by running it.
_find_python() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            return 0
        fi
    done
    echo "greenroom needs Python 3.11 or newer with the venv module (on Debian: apt install python3 python3-venv)." >&2
    echo "Found none of: ${PYTHON:-python3 python3.13 python3.12 python3.11}. Set PYTHON to name another." >&2
    return 1
}

_find_python || exit 2
"$python" -I "$root/scripts/_venv.py" || exit 1
