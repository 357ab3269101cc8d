#!/bin/sh
# serve            the HTTP service over ./sweeps; beyond loopback only with the tokens file named in PULLBACK_TOKENS
# run JOB.yaml     a sweep, on this machine
# anything else    the command as it stands, such as `ray start ...` or `pullback audit sweeps/x`
set -eu
what="${1:-serve}"
[ "$#" -gt 0 ] && shift
case "$what" in
serve)
    folder="${PULLBACK_SWEEPS:-sweeps}"
    mkdir -p "$folder"
    set -- "$folder" --port "${PULLBACK_PORT:-8000}" "$@"
    if [ -n "${PULLBACK_TOKENS:-}" ]; then
        set -- "$@" --host "${PULLBACK_HOST:-0.0.0.0}" --tokens "$PULLBACK_TOKENS"
    fi
    exec pullback serve "$@"
    ;;
run)
    exec pullback run "$@"
    ;;
*)
    exec "$what" "$@"
    ;;
esac
