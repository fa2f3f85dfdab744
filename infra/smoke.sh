#!/bin/bash
# The whole life, once, against servers that are up and have released nothing yet:
# first training, prediction, a better classifier and the swap to it, rollback, a restart of everything.
#
#   infra/smoke.sh                  # against docker compose, as .env sets it
#   PATH=.venv/bin:$PATH IN='env RELEARN_HOME=… PREFECT_API_URL=http://127.0.0.1:4200/api' RESTART='…' infra/smoke.sh
#                                   # against relearn up, which RESTART ends and starts again
set -euo pipefail
cd "$(dirname "$0")/.."
setting() { # NAME DEFAULT: what the environment says, or else .env
    local told=${!1:-$(sed -n "s/^$1=//p" .env 2>/dev/null | tail -n 1)}
    echo "${told:-$2}"
}

IN=${IN-docker compose exec -T worker} # what runs a program where the runner is
RESTART=${RESTART:-docker compose restart}
NAME=$(setting RELEARN_MODEL_NAME digits)
API=http://127.0.0.1:$(setting API_PORT 3000)
MLFLOW=http://127.0.0.1:$(setting MLFLOW_PORT 5000)
PREFECT=http://127.0.0.1:$(setting PREFECT_PORT 4200)

folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
# A file, for all users of a machine see what stands on command lines.
if [ -e secrets/client_key ]; then echo "x-api-key: $(cat secrets/client_key)"; fi > "$folder/key"

say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() {
    say "FAILED: $*"
    exit 1
}
expect() { [ "$2" = "$3" ] || fail "$1: got $2, expected $3"; }

status() { curl -s -o /dev/null -w '%{http_code}' --max-time 5 "$API$1" || true; }
ask() { # of one image: HTTP status, version, label
    curl -s --max-time 5 -w '\n%{http_code}' -H "@$folder/key" -H 'content-type: image/png' \
        --data-binary "@$folder/digit.png" "$API/predict" | paste -sd ' ' |
        sed -E 's/.*"version":"([^"]*)".*"label":"([^"]*)".*([0-9]{3})$/\3 \1 \2/; t; s/.*([0-9]{3})$/\1/'
}
live() { for _ in $(seq 20); do ask; done | cut -d ' ' -f 2 | sort -u | paste -sd ' '; } # of all workers
until_live() { # one version, within twenty rounds
    for _ in $(seq 20); do
        [ "$(live)" != "$1" ] || return 0
        sleep 0.3
    done
    fail "version $1 is not live: $(ask)"
}
until_status() { # of a path, within two minutes
    for _ in $(seq 120); do
        [ "$(status "$1")" != "$2" ] || return 0
        sleep 1
    done
    fail "$1 answers $(status "$1"), not $2"
}
retrain() { # by the work pool, with these settings
    $IN prefect deployment run "retrain/$NAME" --watch --param networks='["mlp"]' \
        --param config="{\"dataset\": \"$NAME\", $1}" > "$folder/retraining" 2>&1 ||
        { cat "$folder/retraining" && fail "the retraining"; }
}
verdicts() { $IN relearn history --model-name "$NAME" --json | sed -E 's/.*"action": ?"([^"]*)".*/\1/' | paste -sd ' '; }
known() { # how many runs MLflow and Prefect know of
    local experiment
    experiment=$(curl -sf "$MLFLOW/api/2.0/mlflow/experiments/get-by-name?experiment_name=$NAME" |
        sed -nE 's/.*"experiment_id": *"([0-9]+)".*/\1/p')
    curl -sf "$MLFLOW/api/2.0/mlflow/runs/search" -H 'content-type: application/json' \
        -d "{\"experiment_ids\": [\"$experiment\"]}" | grep -c '"run_id"'
    curl -sf -X POST "$PREFECT/api/flow_runs/count" -H 'content-type: application/json' \
        -d '{"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}, "name": {"like_": "retrain"}}}'
}

say "everything comes up"
until_status /livez 200
for _ in $(seq 120); do
    ! { curl -sf -o /dev/null "$PREFECT/api/deployments/name/retrain/$NAME" && $IN true; } 2>/dev/null || break
    sleep 1
done
curl -sf -o /dev/null "$PREFECT/api/deployments/name/retrain/$NAME" || fail "Prefect knows no retraining of $NAME"

$IN python -c "
import sys; from PIL import Image; from sklearn.datasets import load_digits
Image.fromarray((load_digits().images[0] * 255 / 16).astype('uint8')).save(sys.stdout.buffer, 'PNG')" > "$folder/digit.png"

say "alive, and nothing to serve yet"
expect "/readyz" "$(status /readyz)" 503

for page in "$MLFLOW/" "$PREFECT/"; do
    expect "the page $page" "$(curl -sL -o /dev/null -w '%{http_code}' "$page")" 200
done

say "a first training, a weak one"
retrain '"epochs": 1, "learning_rate": 0.01'
until_live 1
say "it answers: $(ask)"

say "a better one, while the API is asked over and over"
while sleep 0.05; do ask; done > "$folder/answers" &
asking=$!
retrain '"epochs": 15'
until_live 2
kill "$asking"
bad=$(grep -cv '^200 ' "$folder/answers" || true)
expect "answers other than 200, of $(wc -l < "$folder/answers")" "$bad" 0
expect "versions that answered" "$(cut -d ' ' -f 2 "$folder/answers" | sort -u | paste -sd ' ')" "1 2"
expect "verdicts" "$(verdicts)" "promote promote"
expect "the answer" "$(ask)" "200 2 0"
say "promoted and swapped: $(wc -l < "$folder/answers") answers, none failed"

say "back to the first"
$IN relearn rollback --model-name "$NAME" --reason "a smoke test" > "$folder/rollback" || { cat "$folder/rollback" && fail "the rollback"; }
until_live 1

known=$(known | paste -sd ' ')
say "everything starts again; runs that MLflow and Prefect know: $known"
(eval "$RESTART") > "$folder/restart" 2>&1 || { cat "$folder/restart" && fail "the restart"; }
until_status /readyz 200
expect "live" "$(live)" 1
for _ in $(seq 60); do
    [ "$(known 2>/dev/null | paste -sd ' ')" != "$known" ] || break
    sleep 2
done
expect "runs that MLflow and Prefect know" "$(known | paste -sd ' ')" "$known"
expect "verdicts" "$(verdicts)" "promote promote rollback"
say "all is still there"
