"""Writing the synthetic set: bytes from the seed, COCO's layout, resuming, clear refusals."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.errors import RecipeError, StorageError, UsageError
from ovseg_cli.stages import make_shapes as module
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes

OPTIONS = ShapesOptions(seed=3, train=8, val=4, test=2, pairs_easy=3, pairs_crop=3, pairs_window=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "shapes"
    make_shapes(path, OPTIONS)
    return path


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(folder, name):
    return json.loads((folder / "annotations" / name).read_text())


def test_the_same_seed_makes_the_same_bytes_whatever_the_chunks(folder, tmp_path):
    make_shapes(tmp_path / "again", OPTIONS, chunk_size=3)
    assert content(tmp_path / "again") == content(folder)


def test_two_workers_make_the_same_bytes(folder, tmp_path):
    make_shapes(tmp_path / "again", OPTIONS, workers=2, chunk_size=3)
    assert content(tmp_path / "again") == content(folder)


def test_another_seed_makes_other_images(folder, tmp_path):
    other = ShapesOptions(**{**OPTIONS.__dict__, "seed": 4})
    make_shapes(tmp_path / "other", other)
    assert content(tmp_path / "other") != content(folder)


def test_the_reader_of_coco_reads_it_with_seen_and_novel_classes(folder):
    dataset = CocoDataset(folder, "val")
    assert len(dataset) == OPTIONS.val
    assert len(dataset.vocabulary) == 28
    assert sum(dataset.vocabulary.seen) == 20
    for sample in dataset:
        assert sample.masks.any(dim=(1, 2)).all()
        assert len(sample.captions) == 5


def test_training_masks_are_of_seen_classes_alone_but_captions_name_novel_ones(folder):
    dataset = CocoDataset(folder, "train")
    seen = dataset.vocabulary.seen
    assert all(seen[label] for sample in dataset for label in sample.labels.tolist())
    novel = {n for n, s in zip(dataset.vocabulary.names, seen, strict=True) if not s}
    words = {w for sample in dataset for text in sample.captions for w in text.split()}
    assert words & novel


def test_panoptic_pngs_agree_with_their_segments(folder):
    for entry in read(folder, "panoptic_val.json")["annotations"]:
        path = folder / "annotations" / "panoptic_val" / entry["file_name"]
        pixels = np.array(Image.open(path)).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        for segment in entry["segments_info"]:
            ys, xs = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(ys)
            x, y, width, height = segment["bbox"]
            assert (x, y) == (xs.min(), ys.min())
            assert (width, height) == (np.ptp(xs) + 1, np.ptp(ys) + 1)


def test_pycocotools_reads_the_instances_and_finds_the_panoptic_masks(folder):
    coco = COCO(folder / "annotations" / "instances_val.json")
    panoptic = read(folder, "panoptic_val.json")["annotations"]
    things = {c["id"] for c in coco.dataset["categories"]}
    wanted = sum(s["category_id"] in things for e in panoptic for s in e["segments_info"])
    assert len(coco.anns) == wanted > 0
    for annotation in coco.anns.values():
        assert coco.annToMask(annotation).sum() == annotation["area"]


def test_pairs_have_captions_and_no_masks(folder):
    names = {path.name for path in (folder / "annotations").iterdir()}
    assert {"captions_pairs_easy.json", "captions_pairs_crop.json"} <= names
    assert not {n for n in names if n.startswith(("panoptic_pairs", "instances_pairs"))}


def test_an_interrupted_set_goes_on_and_ends_the_same(folder, tmp_path, monkeypatch):
    real, calls = module.write_image, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "write_image", failing)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "set", OPTIONS, chunk_size=3)
    assert not list((tmp_path / "set" / "annotations").glob("captions_*"))
    before = len(calls)
    make_shapes(tmp_path / "set", OPTIONS, chunk_size=3)
    assert len(calls) - before == 23 - 6
    assert content(tmp_path / "set") == content(folder)


def test_a_finished_set_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(module, "write_image", None)
    assert make_shapes(folder, OPTIONS)["train"] == 8


def test_other_options_in_the_same_folder_are_refused(folder):
    with pytest.raises(UsageError, match="made with other options"):
        make_shapes(folder, ShapesOptions(seed=99))


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a synthetic set"):
        make_shapes(tmp_path, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_numbers_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"\[shapes\] pairs_crop: -1 images"):
        make_shapes(tmp_path, ShapesOptions(pairs_crop=-1))
    with pytest.raises(UsageError, match="--seed"):
        make_shapes(tmp_path, ShapesOptions(seed=-1))
    with pytest.raises(UsageError, match="--workers"):
        make_shapes(tmp_path, OPTIONS, workers=0)


def test_a_full_disk_is_said_plainly(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_image", full)
    with pytest.raises(StorageError, match="no space left"):
        make_shapes(tmp_path / "set", OPTIONS)
