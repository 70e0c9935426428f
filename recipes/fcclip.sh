#!/usr/bin/env bash
# FC-CLIP on COCO panoptic; OVSEG_DATA names the folder that holds coco/ and the targets.
#   recipes/fcclip.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-fcclip}

ovseg train-proposals --run "$run" --recipe "$recipe" --precision fp16
ovseg evaluate --run "$run" --recipe "$recipe"
for target in ade20k_150 ade20k_847 pascal_context_59 pascal_context_459 \
  pascal_voc_20 pascal_voc_21 cityscapes mapillary; do
  ovseg evaluate --run "$run" --recipe "$recipe" --target "$target"
done
