#!/bin/sh
# Make what docker-compose.yml needs and nobody else may know: passwords and keys in secrets/, settings in .env.
# What is there already stays as it is.
set -eu
cd "$(dirname "$0")/.."
mkdir -p secrets
chmod 700 secrets # a container's user has to read the files; others of this machine do not get this far

secret() { # a new one of 32 characters
    LC_ALL=C tr -dc A-Za-z0-9 < /dev/urandom | head -c 32
}

for name in postgres_password mlflow_password prefect_password grafana_password metrics_key client_key; do
    [ -s "secrets/$name" ] || { secret > "secrets/.$name" && chmod 444 "secrets/.$name" && mv "secrets/.$name" "secrets/$name"; }
done
[ -s secrets/api_keys ] || {
    printf '# One key a line: that of Prometheus, then those of clients.\n%s\n%s\n' \
        "$(cat secrets/metrics_key)" "$(cat secrets/client_key)" > secrets/.api_keys
    chmod 444 secrets/.api_keys && mv secrets/.api_keys secrets/api_keys
}
[ -e .env ] || cp .env.example .env
echo "secrets/ and .env are there; the key for clients is in secrets/client_key"
