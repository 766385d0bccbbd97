# Sourced by the scripts beside it, with `root` set to the checkout. Plain POSIX sh.

say() { printf '==> %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Print the version of a Python, such as 3.12.4; fail where it can't be run at all.
version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

# Whether a version such as 3.12.4 is one that Holdfast runs on.
new_enough() {
    major=${1%%.*}
    minor=${1#*.}
    minor=${minor%%.*}
    [ "$major" -gt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -ge 11 ]; }
}

# Set `python` to a Python of 3.11 or newer: PYTHON where it is set, otherwise the first that PATH has.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        version=$(version_of "$PYTHON") || fail "PYTHON=$PYTHON can't be run; set it to a Python 3.11 or newer"
        new_enough "$version" || fail "PYTHON=$PYTHON is Python $version; Holdfast needs 3.11 or newer"
        python=$PYTHON
        return
    fi
    seen=''
    for python in python3.13 python3.12 python3.11 python3 python; do
        version=$(version_of "$python") || continue
        new_enough "$version" && return
        seen="$seen $python ($version)"
    done
    fail "Holdfast needs Python 3.11 or newer, and PATH has${seen:- no Python}. \
Install one (python.org, your package manager, pyenv), or name it: PYTHON=/path/to/python3.12 $0"
}

# Make `$root/.venv` from requirements.lock, or leave it alone where it is up to date already.
ensure_venv() {
    venv=$root/.venv
    if [ -z "${PYTHON:-}" ] && [ -x "$venv/bin/python" ] \
        && "$venv/bin/python" -I -S "$root/scripts/bootstrap.py" --is-ready 2>/dev/null; then
        return
    fi
    find_python
    "$python" -I "$root/scripts/bootstrap.py" || exit
}
