#!/bin/sh
# serve [OPTIONS]       the HTTP service over a folder of sweeps; beyond loopback only with tokens
# run JOB [OPTIONS]     a sweep, on this machine; it exits with the sweep's status
# anything else         the command as it stands, such as `ray start ...` or `pullback audit sweeps/x`
#
# PULLBACK_SWEEPS  the folder of sweeps: ./sweeps
# PULLBACK_PORT    8000
# PULLBACK_TOKENS  the file of tokens; without it the service listens at 127.0.0.1 only
# PULLBACK_HOST    with tokens, where it listens: 0.0.0.0
# PULLBACK_ROOT_PATH  the path under which a proxy serves it, such as /pullback; none
set -eu
what="${1:-serve}"
[ "$#" -eq 0 ] || shift
# exec, so that signals reach the program itself
case "$what" in
serve)
    folder="${PULLBACK_SWEEPS:-sweeps}"
    mkdir -p "$folder"
    if [ -n "${PULLBACK_TOKENS:-}" ]; then
        set -- --host "${PULLBACK_HOST:-0.0.0.0}" --tokens "$PULLBACK_TOKENS" "$@"
    fi
    exec pullback serve "$folder" --port "${PULLBACK_PORT:-8000}" --root-path "${PULLBACK_ROOT_PATH:-}" "$@"
    ;;
run)
    exec pullback run "$@"
    ;;
*)
    exec "$what" "$@"
    ;;
esac
