"""A folder of mined pairs, small enough to know by heart."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

PAIRS = (  # image, caption, noun, score; the masks differ in place and size
    ("a.png", 0, "dog", 0.30),
    ("a.png", 1, "cat", 0.10),
    ("b.png", 0, "dog", 0.25),
    ("b.png", 0, "bird", 0.20),
    ("c.png", 2, "cat", 0.28),
    ("c.png", 4, "bird", 0.05),
)
SIZE = (40, 48)


def pair_mask(number: int) -> torch.Tensor:
    """The mask of a pair of `PAIRS`: a rectangle without its upper right quarter."""
    top, bottom, left, right = 2 + number, 20 + 3 * number, 3 * number, 12 + 5 * number
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    mask[top : (top + bottom) // 2, (left + right) // 2 :] = False
    return mask


def write_pairs(folder: Path, images: Path) -> Path:
    """Writes `PAIRS` in two shards, with their images, and returns the folder."""
    images.mkdir()
    folder.mkdir()
    source = np.random.default_rng(0)
    for name in sorted({pair[0] for pair in PAIRS}):
        Image.fromarray(source.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(images / name)
    lines = [_line(number) for number in range(len(PAIRS))]
    for shard, part in enumerate((lines[:4], lines[4:])):
        (folder / f"shard-{shard:05d}.jsonl").write_text("".join(part))
    (folder / "manifest.json").write_text(json.dumps({"images": str(images)}))
    (folder / "statistics.json").write_text("{}")
    return folder


def _line(number: int) -> str:
    image, caption, noun, score = PAIRS[number]
    mask = pair_mask(number)
    rle = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    rows, columns = mask.nonzero().unbind(1)
    box = [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    record = {
        "image": image, "image_id": ord(image[0]), "caption": caption, "noun": noun,
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        "box": box, "score": score, "area": int(mask.sum()),
    }  # fmt: skip
    return json.dumps(record) + "\n"
