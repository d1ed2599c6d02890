#!/usr/bin/env bash
# What `make check` asks, cheapest first. All of it is asked, also where something is wrong; the exit status says whether anything was.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=.venv/bin/python wrong=0

ask() { printf '\n== %s\n' "$*"; "$@" || wrong=1; }

ask $python -m ruff check .
ask $python -m ruff format --check .
ask $python scripts/notebooks.py check
ask $python scripts/ways.py --check
ask .venv/bin/basedpyright --pythonpath $python --baselinemode=discard
[[ ! -x tests/js/node_modules/.bin/tsc ]] || ask tests/js/node_modules/.bin/tsc -p tests/js
ask $python scripts/notebooks.py outputs
exit $wrong
