#!/usr/bin/env bash
# MAFT from nothing to evaluated, on the synthetic set.
#   recipes/tiny/maft.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-tiny/maft}

ovseg datasets make shapes "$run/shapes" --recipe "$recipe"
ovseg train-clip --run "$run" --recipe "$recipe"
ovseg train-proposals --run "$run" --recipe "$recipe"
ovseg distill --run "$run" --recipe "$recipe"
ovseg tune-clip --mode maft --run "$run" --recipe "$recipe"
ovseg evaluate --run "$run" --recipe "$recipe"
