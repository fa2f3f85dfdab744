#!/bin/bash
# Smoke test of the whole lifecycle against running services without a release:
# first training, prediction, promotion and hot reload of a better classifier, rollback, restart of all services.
#
#   infra/smoke.sh                  # against docker compose, with the settings of .env
#   PATH=.venv/bin:$PATH IN='env RELEARN_HOME=… PREFECT_API_URL=http://127.0.0.1:4200/api' RESTART='…' infra/smoke.sh
#                                   # against relearn up; RESTART stops it and starts it again
set -euo pipefail
cd "$(dirname "$0")/.."
setting() { # NAME DEFAULT: the value in the environment or .env
    local value=${!1:-$(sed -n "s/^$1=//p" .env 2>/dev/null | tail -n 1)}
    echo "${value:-$2}"
}

IN=${IN-docker compose exec -T worker} # runs a program in the worker's environment
RESTART=${RESTART:-docker compose restart}
NAME=$(setting RELEARN_MODEL_NAME digits)
API=http://127.0.0.1:$(setting API_PORT 3000)
MLFLOW=http://127.0.0.1:$(setting MLFLOW_PORT 5000)
PREFECT=http://127.0.0.1:$(setting PREFECT_PORT 4200)

folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
# In a file, since command lines are visible to all users of the machine.
if [ -e secrets/client_key ]; then echo "x-api-key: $(cat secrets/client_key)"; fi > "$folder/key"

say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() {
    say "FAILED: $*"
    exit 1
}
expect() { [ "$2" = "$3" ] || fail "$1: got $2, expected $3"; }

status() { curl -s -o /dev/null -w '%{http_code}' --max-time 5 "$API$1" || true; }
predict() { # prints HTTP status, version and label for one image
    curl -s --max-time 5 -w '\n%{http_code}' -H "@$folder/key" -H 'content-type: image/png' \
        --data-binary "@$folder/digit.png" "$API/predict" | paste -sd ' ' |
        sed -E 's/.*"version":"([^"]*)".*"label":"([^"]*)".*([0-9]{3})$/\3 \1 \2/; t; s/.*([0-9]{3})$/\1/'
}
served_versions() { for _ in $(seq 20); do predict; done | cut -d ' ' -f 2 | sort -u | paste -sd ' '; } # by all workers
wait_until_served() { # VERSION: by all workers, in at most 20 attempts
    for _ in $(seq 20); do
        [ "$(served_versions)" != "$1" ] || return 0
        sleep 0.3
    done
    fail "version $1 is not served: $(predict)"
}
wait_for_status() { # PATH STATUS: for at most two minutes
    for _ in $(seq 120); do
        [ "$(status "$1")" != "$2" ] || return 0
        sleep 1
    done
    fail "$1: got status $(status "$1"), expected $2"
}
retrain() { # SETTINGS: runs a retraining in the work pool
    $IN prefect deployment run "retrain/$NAME" --watch --param networks='["mlp"]' \
        --param config="{\"dataset\": \"$NAME\", $1}" > "$folder/retraining" 2>&1 ||
        { cat "$folder/retraining" && fail "the retraining"; }
}
ledger_actions() { $IN relearn history --model-name "$NAME" --json | sed -nE 's/.*"action": ?"([^"]*)".*/\1/p' | paste -sd ' '; }
count_runs() { # prints the number of runs in MLflow and in Prefect
    local experiment
    experiment=$(curl -sf "$MLFLOW/api/2.0/mlflow/experiments/get-by-name?experiment_name=$NAME" |
        sed -nE 's/.*"experiment_id": *"([0-9]+)".*/\1/p')
    curl -sf "$MLFLOW/api/2.0/mlflow/runs/search" -H 'content-type: application/json' \
        -d "{\"experiment_ids\": [\"$experiment\"]}" | grep -c '"run_id"'
    curl -sf -X POST "$PREFECT/api/flow_runs/count" -H 'content-type: application/json' \
        -d '{"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}, "name": {"like_": "retrain"}}}'
}

say "waiting for all services"
wait_for_status /livez 200
for _ in $(seq 120); do
    ! { curl -sf -o /dev/null "$PREFECT/api/deployments/name/retrain/$NAME" && $IN true; } 2>/dev/null || break
    sleep 1
done
curl -sf -o /dev/null "$PREFECT/api/deployments/name/retrain/$NAME" || fail "Prefect has no deployment retrain/$NAME"

$IN python -c "
import sys; from PIL import Image; from sklearn.datasets import load_digits
Image.fromarray((load_digits().images[0] * 255 / 16).astype('uint8')).save(sys.stdout.buffer, 'PNG')" > "$folder/digit.png"

say "the API is live, with no model yet"
expect "/readyz" "$(status /readyz)" 503

for page in "$MLFLOW/" "$PREFECT/"; do
    expect "the UI $page" "$(curl -sL -o /dev/null -w '%{http_code}' "$page")" 200
done

say "first training, with a weak config"
retrain '"epochs": 1, "learning_rate": 0.01'
wait_until_served 1
say "prediction: $(predict)"

say "training of a better classifier, under a constant load of requests"
while sleep 0.05; do predict; done > "$folder/predictions" &
load=$!
retrain '"epochs": 15'
wait_until_served 2
kill "$load"
failed=$(grep -cv '^200 ' "$folder/predictions" || true)
expect "failed requests, of $(wc -l < "$folder/predictions")" "$failed" 0
expect "served versions" "$(cut -d ' ' -f 2 "$folder/predictions" | sort -u | paste -sd ' ')" "1 2"
expect "ledger actions" "$(ledger_actions)" "promote promote"
expect "prediction" "$(predict)" "200 2 0"
say "version 2 is promoted and served: $(wc -l < "$folder/predictions") requests, none failed"

say "rollback to version 1"
$IN relearn rollback --model-name "$NAME" --reason "a smoke test" > "$folder/rollback" || { cat "$folder/rollback" && fail "the rollback"; }
wait_until_served 1

run_counts=$(count_runs | paste -sd ' ')
say "restart of all services; runs in MLflow and Prefect: $run_counts"
(eval "$RESTART") > "$folder/restart" 2>&1 || { cat "$folder/restart" && fail "the restart"; }
wait_for_status /readyz 200
expect "served versions" "$(served_versions)" 1
for _ in $(seq 60); do
    [ "$(count_runs 2>/dev/null | paste -sd ' ')" != "$run_counts" ] || break
    sleep 2
done
expect "runs in MLflow and Prefect" "$(count_runs | paste -sd ' ')" "$run_counts"
expect "ledger actions" "$(ledger_actions)" "promote promote rollback"
say "passed: nothing was lost in the restart"
