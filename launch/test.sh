#!/usr/bin/env bash
# Runs the tests, after set-up where that is needed.
#
#   bash launch/test.sh [pytest options]       e.g. -k losses, -m "not distributed"
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/launch/setup.sh" --test
cd "$root"
exec .venv/bin/python -m pytest "$@"
