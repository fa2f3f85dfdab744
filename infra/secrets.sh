#!/bin/sh
# Create the secrets of docker-compose.yml in secrets/ (passwords, keys) and its settings in .env.
# Existing files are kept. A deleted key is replaced; the old key stays valid until its line in secrets/api_keys
# is deleted too.
set -eu
cd "$(dirname "$0")/.."
# Containers read these files as other users; with umask 077 the clone would deny that.
chmod -R go+rX infra/monitoring infra/postgres
mkdir -p secrets
chmod 700 secrets # the files are readable for the containers' users, the folder only for its owner
trap 'rm -f secrets/.new.$$' EXIT

write() { # NAME: writes stdin to secrets/NAME atomically
    rm -f secrets/.new.$$ && cat > secrets/.new.$$ && chmod 444 secrets/.new.$$ && mv -f secrets/.new.$$ "secrets/$1"
}

for name in postgres_password mlflow_password prefect_password grafana_password metrics_key client_key; do
    [ -s "secrets/$name" ] || LC_ALL=C tr -dc A-Za-z0-9 < /dev/urandom | head -c 32 | write "$name"
done
[ -s secrets/api_keys ] || echo "# Keys that the API accepts, one per line." | write api_keys
for name in metrics_key client_key; do
    grep -qxFf "secrets/$name" secrets/api_keys ||
        awk 1 secrets/api_keys "secrets/$name" | write api_keys # awk adds a missing final newline
done

[ -e .env ] || cp .env.example .env
grep -q '^RELEARN_SECRETS=.' .env || { echo ".env does not name RELEARN_SECRETS; .env.example does" >&2 && exit 2; }
echo "secrets/ and .env are ready; the key for clients is in secrets/client_key"
