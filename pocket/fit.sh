#!/usr/bin/env bash
# Trains a recipe within a time: measures how long its steps take, gives its schedule as many as fit, and begins.
#
#     pocket/fit.sh ZOO RECIPE.toml MINUTES [MINUTES_NOW]
#
# RECIPE.toml is changed: both its numbers of steps. MINUTES is for the whole schedule, MINUTES_NOW for this call.
set -euo pipefail
zoo=$1 recipe=$2 minutes=$3 now=${4:-$3}
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT
begun=$SECONDS
"$zoo" train "$recipe" --out "$trial" --steps 60 >"$trial.log" 2>&1 || { cat "$trial.log" && exit 1; }
steps=$(python3 - "$trial/log.jsonl" "$minutes" <<'PY'
import json, statistics, sys
seconds = [json.loads(line)["seconds"] for line in open(sys.argv[1])][20:]
print(int(float(sys.argv[2]) * 60 * 0.95 / statistics.mean(seconds)))
PY
)
sed -i -E "/^\[training]/,/^\[checkpoints]/ { s/^steps = [0-9]+\$/steps = $steps/; s/(rate = .*steps = )[0-9]+/\1$steps/ }" "$recipe"
echo "$recipe: $steps steps fit into $minutes minutes; measured in $((SECONDS - begun)) s"
"$zoo" train "$recipe" --minutes "$now"
