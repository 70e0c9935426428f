"""The result files as other programs read them, for images of every odd kind."""

import contextlib
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovseg_cli import storage
from ovseg_cli.stages.predict import PredictOptions, predict
from ovseg_cli.structures import Instances, Segment, Segmentation
from ovseg_cli.vocabulary import builtin_vocabulary

WORDS = builtin_vocabulary("coco_panoptic_133")
TASKS = ("panoptic", "semantic", "instance")


def scattered(image, name: str) -> Segmentation:
    """Up to five ragged regions, one of them without pixels, and void between them."""
    _, height, width = image.shape
    noise = np.random.default_rng(zlib.crc32(Path(name).name.encode()))
    ids = torch.from_numpy(noise.choice([0, 1, 7, 300, 70_000], (height, width))).int()
    labels = dict(zip((1, 7, 300, 70_000), noise.choice(133, 4, replace=False), strict=True))
    segments = tuple(
        Segment(id_, int(label), WORDS.is_thing[label], 0.75, int((ids == id_).sum()))
        for id_, label in labels.items()
        if (ids == id_).any()
    )
    masks = torch.stack([ids == segment.id for segment in segments] or [ids > 0])
    found = torch.tensor([segment.label for segment in segments] or [0])
    semantic = torch.from_numpy(noise.integers(0, 133, (height, width)))
    return Segmentation(ids, segments, semantic, Instances(masks, found, torch.ones(len(masks))))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, dict[str, tuple[int, int]]]:
    """A folder of results and the upright (height, width) of each image."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "in").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    images = {
        "dot.png": (Image.new("RGB", (1, 1)), {}),
        "line.png": (Image.new("RGB", (50, 1)), {}),
        "pole.png": (Image.new("RGB", (1, 50)), {}),
        "palette.png": (Image.new("P", (9, 5)), {}),
        "deep.png": (Image.fromarray(np.full((5, 9), 40_000, np.uint16)), {}),
        "print.jpg": (Image.new("CMYK", (9, 5)), {}),
        "turned.jpg": (Image.new("RGB", (9, 5)), {"exif": turned}),
        "clear.webp": (Image.new("RGBA", (9, 5)), {}),
        "größe 100%.png": (Image.new("L", (9, 5)), {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / "in" / name, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_sync", lambda path: None)
        options = PredictOptions(tasks=TASKS)
        result = predict([str(folder / "in")], WORDS, scattered, folder, options=options)
    assert result.images == len(images)
    sizes = {name: image.size[::-1] for name, (image, _) in images.items()}
    return folder, {**sizes, "turned.jpg": (9, 5)}


def test_panoptic_files_agree_with_themselves_and_with_the_images(results) -> None:
    folder, sizes = results
    content = json.loads((folder / "panoptic.json").read_text("utf-8"))
    images = {image["id"]: image for image in content["images"]}
    things = {entry["id"]: entry["isthing"] for entry in content["categories"]}
    assert len(things) == 133
    assert len(images) == len(content["annotations"]) == len(sizes)
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        assert (image["height"], image["width"]) == sizes[Path(image["file_name"]).name]
        colors = np.asarray(Image.open(folder / "panoptic" / annotation["file_name"]))
        assert colors.shape == (image["height"], image["width"], 3)
        ids = colors.astype(np.int64) @ np.array([1, 256, 65536])
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == set(segments)
        for id_, segment in segments.items():
            rows, columns = np.nonzero(ids == id_)
            x, y, width, height = segment["bbox"]
            assert (x, x + width - 1) == (columns.min(), columns.max())
            assert (y, y + height - 1) == (rows.min(), rows.max())
            assert segment["area"] == len(rows)
            assert segment["category_id"] in things
            assert segment["iscrowd"] == 0


def test_instances_are_read_by_pycocotools_and_score_1_on_themselves(results) -> None:
    folder, _ = results
    content = json.loads((folder / "panoptic.json").read_text("utf-8"))
    lines = (folder / "instances.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    images = {image["id"]: image for image in content["images"]}
    for record in records:
        size = [images[record["image_id"]][side] for side in ("height", "width")]
        mask = coco_mask.decode(record["segmentation"])
        assert list(mask.shape) == size
        assert record["area"] == mask.sum()
    annotations = [
        {**record, "id": number, "iscrowd": 0} for number, record in enumerate(records, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {**content, "annotations": annotations}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(records), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_semantic_maps_and_drawings_are_there_for_every_image(results) -> None:
    folder, sizes = results
    for name, size in sizes.items():
        stem = Path(name).stem
        classes = np.asarray(Image.open(folder / "semantic" / f"{stem}.png"))
        assert classes.dtype == np.uint8
        image = torch.zeros(3, *size, dtype=torch.uint8)
        assert (classes == scattered(image, name).semantic.numpy()).all()
        assert Image.open(folder / "overlays" / f"{stem}.png").width >= 240
