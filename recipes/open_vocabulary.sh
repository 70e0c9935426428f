#!/usr/bin/env bash
# Mask2Former's public weights and a published CLIP, scored without any training; OVSEG_DATA names the
# folder that holds coco/ and the target.
#   recipes/open_vocabulary.sh FILE [RUN]      with FILE such as model_final.pkl
set -euo pipefail
file=$1
run=${2:-run}

ovseg models import "$file" --system mask2former --run "$run"
ovseg evaluate --run "$run"
for target in ade20k_150; do
  ovseg evaluate --run "$run" --target "$target"
done
