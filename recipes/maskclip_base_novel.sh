#!/usr/bin/env bash
# MaskCLIP on COCO's 48 base and 17 novel classes; OVSEG_DATA names the folder that holds coco/.
#   recipes/maskclip_base_novel.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-maskclip_base_novel}

ovseg train-proposals --run "$run" --recipe "$recipe" --precision fp16
ovseg tune-clip --mode rma --run "$run" --recipe "$recipe" --precision fp16
ovseg evaluate --run "$run" --recipe "$recipe"
for group in base novel; do
  ovseg evaluate --run "$run" --recipe "$recipe" --set "evaluate.protocol=constrained_$group"
done
