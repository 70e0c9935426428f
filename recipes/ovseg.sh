#!/usr/bin/env bash
# OVSeg on COCO-Stuff and COCO's captions; OVSEG_DATA names the folder of coco_stuff/, coco/
# and the targets.
#   recipes/ovseg.sh [RUN] [RECIPE]
# A stage that is done is left alone, one that was stopped goes on: run the same line again.
set -euo pipefail
run=${1:-run}
recipe=${2:-ovseg}
maps=(--classes coco_stuff_171 --values id_from_zero)

for split in train2017 val2017; do
  if [[ ! -f "$OVSEG_DATA/coco_stuff/annotations/panoptic_$split.json" ]]; then
    ovseg datasets from-maps "$OVSEG_DATA/coco_stuff" --split "$split" \
      --maps "stuffthingmaps/$split" "${maps[@]}"
  fi
done
ovseg train-proposals --run "$run" --recipe "$recipe" --precision fp16
ovseg mine-captions "$OVSEG_DATA/coco" --split train2017 --run "$run" --recipe "$recipe" \
  --precision fp16
ovseg tune-clip --mode finetune --run "$run" --recipe "$recipe" --precision fp16
ovseg tune-clip --mode mpt --run "$run" --recipe "$recipe" --precision fp16
ovseg evaluate --run "$run" --recipe "$recipe"
for target in ade20k_150 ade20k_847; do
  ovseg evaluate --run "$run" --recipe "$recipe" --target "$target"
done
for target in pascal_context_59 pascal_context_459; do
  ovseg evaluate --run "$run" --recipe "$recipe" --target "$target" \
    --set classification.alpha=0.6 --set classification.beta=0.6
done
for target in pascal_voc_20 pascal_voc_21; do
  ovseg evaluate --run "$run" --recipe "$recipe" --target "$target" \
    --set classification.alpha=0.45 --set classification.beta=0.45
done
