#!/bin/sh
# Make what docker-compose.yml needs and nobody else may know: passwords and keys in secrets/, settings in .env.
# What is there already stays as it is; a key that was deleted is made anew, and the old one is good until its line in
# secrets/api_keys goes too.
set -eu
cd "$(dirname "$0")/.."
# Containers read these as users of their own, also where the clone was made for its owner alone (umask 077).
chmod -R go+rX infra/monitoring infra/postgres
mkdir -p secrets
chmod 700 secrets # a container's user has to read the files; others of this machine do not get this far
trap 'rm -f secrets/.new.$$' EXIT

keep() { # what comes, as secrets/$1, whole or not at all
    rm -f secrets/.new.$$ && cat > secrets/.new.$$ && chmod 444 secrets/.new.$$ && mv -f secrets/.new.$$ "secrets/$1"
}

for name in postgres_password mlflow_password prefect_password grafana_password metrics_key client_key; do
    [ -s "secrets/$name" ] || LC_ALL=C tr -dc A-Za-z0-9 < /dev/urandom | head -c 32 | keep "$name"
done
[ -s secrets/api_keys ] || echo "# Who has one of these may ask the API, one a line." | keep api_keys
for name in metrics_key client_key; do
    grep -qxFf "secrets/$name" secrets/api_keys ||
        awk 1 secrets/api_keys "secrets/$name" | keep api_keys # a line each, however the one before ended
done

[ -e .env ] || cp .env.example .env
grep -q '^RELEARN_SECRETS=.' .env || { echo ".env does not name RELEARN_SECRETS; .env.example does" >&2 && exit 2; }
echo "secrets/ and .env are there; the key for clients is in secrets/client_key"
