"""One image of the synthetic set as COCO's records, and COCO's annotation files from the records.

Layout of the folder: `{split}/{id:012d}.jpg`, `annotations/captions_{split}.json`, and for splits
with masks `annotations/panoptic_{split}.json`, `panoptic_{split}/{id:012d}.png` beside it (segment
id = R + 256 G + 65536 B) and `annotations/instances_{split}.json` (things, compressed RLE).
`annotations/vocabulary.json` has the names, which are things, which are seen, and the compositions
held out.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from .classes import classes, held_out_compositions, is_held_out
from .close_up import close_up
from .scene import Region, Scene, draw_scene
from .sentences import captions
from .splits import Split

Record = dict[str, Any]
IMAGES_PER_SPLIT = 1_000_000
_CATEGORY_IDS = {c.name: c.id for c in classes()}
_SEEN = frozenset(c.name for c in classes() if c.seen)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that no half of it is ever seen."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)


def _encoded(image: NDArray[np.uint8], form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def _segment_ids(regions: list[Region], size: int) -> NDArray[np.uint8]:
    ids = np.zeros((size, size, 3), np.uint8)
    for k, region in enumerate(regions, start=1):
        ids[region.mask, 0] = k
    return ids


def _segment(k: int, region: Region) -> Record:
    ys, xs = np.flatnonzero(region.mask.any(1)), np.flatnonzero(region.mask.any(0))
    box = [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)]
    segment = {
        "id": k,
        "category_id": _CATEGORY_IDS[region.name],
        "area": int(region.mask.sum()),
        "bbox": box,
        "iscrowd": 0,
    }
    if region.color:
        held_out = is_held_out(region.color, region.name)
        segment |= {"color": region.color, "texture": region.texture, "held_out": held_out}
    return segment


def _instance(segment: Record, region: Region, image_id: int) -> Record:
    rle = coco_mask.encode(np.asfortranarray(region.mask.astype(np.uint8)))
    rle = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
    identity = {"id": image_id * 100 + segment["id"], "image_id": image_id, "segmentation": rle}
    return segment | identity


def _annotated(split: Split, scene: Scene) -> list[Region]:
    regions = [*scene.things, *scene.stuff]
    return [r for r in regions if split.masks == "all" or r.name in _SEEN]


def write_image(folder: Path, split: Split, index: int, seed: int) -> Record:
    """Draws one image, a function of seed, split and index alone, writes it, returns its records.

    Args:
        folder: the set's folder; the split's folders exist.
        split: which split.
        index: from 0.
        seed: the set's seed.
    """
    rng = np.random.default_rng([seed, split.number, index])
    scene = draw_scene(rng, split.layout, allow_held_out=split.held_out)
    if split.close_up:
        scene = close_up(rng, scene, split.close_up)
    image_id, size = split.number * IMAGES_PER_SPLIT + index + 1, scene.image.shape[0]
    name = f"{image_id:012d}"
    picture = _encoded(scene.image, "JPEG", quality=95, subsampling=0)
    write_whole(folder / split.name / f"{name}.jpg", picture)
    image = {"id": image_id, "file_name": f"{name}.jpg", "height": size, "width": size}
    texts = [
        {"id": image_id * 10 + k, "image_id": image_id, "caption": text}
        for k, text in enumerate(captions(rng, scene))
    ]
    record: Record = {"image": image, "captions": texts}
    if split.masks == "none":
        return record
    regions = _annotated(split, scene)
    segments = [_segment(k, region) for k, region in enumerate(regions, start=1)]
    png = _encoded(_segment_ids(regions, size), "PNG", compress_level=1)
    write_whole(folder / "annotations" / f"panoptic_{split.name}" / f"{name}.png", png)
    record["panoptic"] = {
        "image_id": image_id,
        "file_name": f"{name}.png",
        "segments_info": segments,
    }
    record["instances"] = [
        _instance(segment, region, image_id)
        for segment, region in zip(segments, regions, strict=True)
        if region.color
    ]
    return record


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def write_annotations(folder: Path, split: Split, records: list[Record]) -> None:
    """Writes the split's `captions_`, and with masks its `panoptic_` and `instances_` files."""
    annotations = folder / "annotations"
    info = {"description": "synthetic shapes made by ovseg", "version": "1"}
    images = [record["image"] for record in records]
    texts = [text for record in records for text in record["captions"]]
    common = {"info": info, "licenses": [], "images": images}
    content = _json(common | {"annotations": texts})
    write_whole(annotations / f"captions_{split.name}.json", content)
    if split.masks == "none":
        return
    categories = [
        {"id": c.id, "name": c.name, "supercategory": "shape", "isthing": int(c.is_thing)}
        for c in classes()
    ]
    panoptic = [record["panoptic"] for record in records]
    content = _json(common | {"annotations": panoptic, "categories": categories})
    write_whole(annotations / f"panoptic_{split.name}.json", content)
    instances = [row for record in records for row in record["instances"]]
    things = [c for c in categories if c["isthing"]]
    content = _json(common | {"annotations": instances, "categories": things})
    write_whole(annotations / f"instances_{split.name}.json", content)


def write_vocabulary(folder: Path) -> None:
    """Writes `annotations/vocabulary.json`, in the order of the category ids."""
    vocabulary = {
        "names": [c.name for c in classes()],
        "is_thing": [c.is_thing for c in classes()],
        "seen": [c.seen for c in classes()],
        "held_out_compositions": [" ".join(pair) for pair in held_out_compositions()],
    }
    content = json.dumps(vocabulary, indent=1).encode() + b"\n"
    write_whole(folder / "annotations" / "vocabulary.json", content)
