#!/usr/bin/env bash
# MAFT with SAM's masks on COCO-Stuff, 156 of 171 classes seen; OVSEG_DATA names the folder that
# holds coco_stuff/ and the targets.
#   recipes/maft_sam.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-maft_sam}
maps=(--classes coco_stuff_156_15 --values id_from_zero)

for split in train2017 val2017; do
  if [[ ! -f "$OVSEG_DATA/coco_stuff/annotations/panoptic_$split.json" ]]; then
    ovseg datasets from-maps "$OVSEG_DATA/coco_stuff" --split "$split" \
      --maps "stuffthingmaps/$split" "${maps[@]}"
  fi
done
ovseg tune-clip --mode maft --run "$run" --recipe "$recipe"
ovseg evaluate --run "$run" --recipe "$recipe"
for target in ade20k_150 ade20k_847 pascal_context_59 pascal_context_459 \
  pascal_voc_20 pascal_voc_21; do
  ovseg evaluate --run "$run" --recipe "$recipe" --target "$target"
done
