#!/bin/sh
# with-password FILE PROGRAM…: runs PROGRAM with the content of FILE as the password of its database.
PGPASSWORD=$(cat "$1" 2> /dev/null)
case $PGPASSWORD in *[![:space:]]*) ;; *) echo "$1 holds no password: infra/secrets.sh makes one" >&2 && exit 3 ;; esac
export PGPASSWORD
shift
exec "$@"
