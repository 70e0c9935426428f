#!/usr/bin/env bash
# OVSeg from nothing to evaluated, on the synthetic set.
#   recipes/tiny/ovseg.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-tiny/ovseg}

ovseg datasets make shapes "$run/shapes" --recipe "$recipe"
ovseg train-clip --run "$run" --recipe "$recipe"
ovseg train-proposals --run "$run" --recipe "$recipe"
ovseg mine-captions --run "$run" --recipe "$recipe"
ovseg tune-clip --mode finetune --run "$run" --recipe "$recipe"
ovseg tune-clip --mode mpt --run "$run" --recipe "$recipe"
ovseg evaluate --run "$run" --recipe "$recipe"
