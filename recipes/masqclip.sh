#!/usr/bin/env bash
# MasQCLIP on COCO panoptic; OVSEG_DATA names the folder that holds coco/.
#   recipes/masqclip.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-masqclip}

ovseg train-proposals --run "$run" --recipe "$recipe" --precision fp16
ovseg tune-clip --mode masq --run "$run" --recipe "$recipe" --precision fp16
ovseg evaluate --run "$run" --recipe "$recipe"
