# Sourced by export-active, verify and lib_operations.sh, with `root` set. Plain POSIX sh.

wrong() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}
failed() {
    printf 'FAILED: %s\n' "$*"
    exit 1
}
succeeded() { printf 'OK: %s\n' "$*"; }

# Find the command: HOLDFAST where it is set (several words, too), otherwise the checkout's, otherwise what PATH has.
find_holdfast() {
    holdfast=$root/.venv/bin/holdfast
    [ -n "${HOLDFAST:-}" ] || [ -x "$holdfast" ] || holdfast=$(command -v holdfast) \
        || wrong "there is no holdfast on the PATH and no .venv in $root: name it with HOLDFAST"
}
hold() { if [ -n "${HOLDFAST:-}" ]; then $HOLDFAST "$@"; else "$holdfast" "$@"; fi; }
