#!/bin/bash
# Run once by the PostgreSQL image on an empty volume: creates a database and a role for MLflow and for Prefect.
set -euo pipefail
for name in mlflow prefect; do
    PASSWORD=$(cat "/run/secrets/${name}_password") \
        psql --no-psqlrc --quiet --username "$POSTGRES_USER" -v ON_ERROR_STOP=1 -v name="$name" <<'SQL'
\getenv password PASSWORD
create role :"name" login password :'password';
create database :"name" owner :"name";
revoke all on database :"name" from public;
SQL
done
