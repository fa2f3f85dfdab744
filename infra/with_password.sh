#!/bin/sh
# with-password FILE PROGRAM…: runs PROGRAM with the content of FILE as the password of its database.
PGPASSWORD=$(cat "$1") && [ -n "$PGPASSWORD" ] || { echo "$1 holds no password: infra/secrets.sh makes one" >&2; exit 3; }
export PGPASSWORD
shift
exec "$@"
