#!/usr/bin/env bash
# Executes the notebooks, in the order in which they build on each other, and keeps executed copies in executed/.
# ZOO names the program; by default it is that of the release build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

export ZOO=${ZOO:-$PWD/../target/release/zoo}
[[ -x $ZOO ]] || { echo "$ZOO is not there; build it with \`cargo build --release\`, or name another in ZOO" && exit 1; }
[[ -x .venv/bin/python ]] || python3 -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt

mkdir -p executed
for notebook in compose inside; do
    start=$SECONDS
    .venv/bin/jupyter-execute --timeout=1800 --output="executed/$notebook" "$notebook.ipynb"
    echo "notebooks/executed/$notebook.ipynb: $((SECONDS - start)) s"
done
