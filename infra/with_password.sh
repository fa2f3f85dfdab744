#!/bin/sh
# with-password FILE PROGRAM…: run PROGRAM with the content of FILE as PGPASSWORD.
PGPASSWORD=$(cat "$1" 2> /dev/null)
case $PGPASSWORD in *[![:space:]]*) ;; *) echo "$1 contains no password: run infra/secrets.sh" >&2 && exit 3 ;; esac
export PGPASSWORD
shift
exec "$@"
