#!/usr/bin/env bash
# FC-CLIP trained on ADE20K and scored on COCO; OVSEG_DATA names the folder that holds
# ADEChallengeData2016/, with annotations_instance/ in it, and coco/.
#   recipes/fcclip_ade20k.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-fcclip_ade20k}

ovseg datasets prepare ade20k_150 --data "${OVSEG_DATA:-.}"
from=$(cd "${OVSEG_DATA:-.}/ADEChallengeData2016" && pwd)
to=${OVSEG_DATA:-.}/ade20k_panoptic
mkdir -p "$to/annotations"
for part in training:train validation:val; do
  split=${part%:*} short=${part#*:}
  ln -sfn "$from/images/$split" "$to/$split"
  ln -sfn "$from/ade20k_panoptic_$short.json" "$to/annotations/panoptic_$split.json"
  ln -sfn "$from/ade20k_panoptic_$short" "$to/annotations/panoptic_$split"
done
ovseg train-proposals --run "$run" --recipe "$recipe" --precision fp16
ovseg evaluate --run "$run" --recipe "$recipe"
ovseg evaluate --run "$run" --recipe "$recipe" --target coco_panoptic
