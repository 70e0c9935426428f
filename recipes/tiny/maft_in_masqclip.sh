#!/usr/bin/env bash
# MasQCLIP on MAFT's image tower, from nothing to evaluated, on the synthetic set.
#   recipes/tiny/maft_in_masqclip.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-tiny/maft_in_masqclip}

"$(dirname "$0")/maft.sh" "$run"
ovseg tune-clip --mode masq --run "$run" --recipe "$recipe"
ovseg evaluate --run "$run" --recipe "$recipe"
