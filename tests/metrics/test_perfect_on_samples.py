"""A prediction equal to the ground truth scores exactly 1, on real annotations by the readers."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.semantic_maps import SemanticMaps
from ovseg_cli.inference import Task
from ovseg_cli.stages.scores import Results, Scores, class_map
from ovseg_cli.structures import Instances, Sample, Segment, Segmentation, Vocabulary
from ovseg_cli.vocabulary import builtin_vocabulary

SAMPLES = Path(
    os.environ.get("OVSEG_SAMPLES", Path(__file__).parents[2] / ".." / "shared" / "data")
).resolve()
pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason=f"no folder {SAMPLES}; set OVSEG_SAMPLES"
)


def perfect(sample: Sample, vocabulary: Vocabulary) -> Segmentation:
    """What is annotated without crowds, as if it had been found."""
    things = torch.tensor(vocabulary.is_thing)
    kept = ~sample.is_crowd
    masks, labels = sample.masks[kept], sample.labels[kept]
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    segments = tuple(
        Segment(number, label, vocabulary.is_thing[label], 1.0, int((ids == number).sum()))
        for number, label in enumerate(labels.tolist(), start=1)
    )
    thing = things[labels]
    instances = Instances(masks[thing], labels[thing], torch.ones(int(thing.sum())))
    return Segmentation(ids, segments, class_map(sample), instances)


def scored(
    samples: Iterable[Sample], vocabulary: Vocabulary, tasks: tuple[Task, ...]
) -> tuple[Results, Scores]:
    scores = Scores(vocabulary, tasks=tasks)
    for sample in samples:
        scores.update(perfect(sample, vocabulary), sample)
        scores.update_recall(sample.masks[~sample.is_crowd], sample)
    return scores.compute()[0], scores


def test_coco_panoptic_samples_score_one_in_every_task(tmp_path: Path) -> None:
    source = SAMPLES / "coco_panoptic_samples" / "sample_data"
    (tmp_path / "annotations").mkdir()
    target = tmp_path / "annotations" / "panoptic_val2017.json"
    shutil.copy(source / "panoptic_examples.json", target)
    shutil.copytree(source / "input_images", tmp_path / "val2017")
    shutil.copytree(source / "panoptic_examples", tmp_path / "panoptic_val2017")
    dataset = CocoDataset(tmp_path, "val2017")
    tasks: tuple[Task, ...] = ("panoptic", "semantic", "instance")
    results, scores = scored(dataset, dataset.vocabulary, tasks)
    for group in ("all", "things", "stuff"):
        quality = results["panoptic"][group]
        assert (quality["pq"], quality["sq"], quality["rq"]) == (1.0, 1.0, 1.0)
        assert results["semantic"][group] == {"miou": 1.0, "miou_union": 1.0}
        assert results["proposal_recall"][group]["mean"] == 1.0
    assert results["instance"]["all"] == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    assert scores.panoptic is not None
    assert int(scores.panoptic.matched.sum()) == int(sum((~s.is_crowd).sum() for s in dataset))


def test_coco_instances_with_crowds_score_one() -> None:
    dataset = CocoDataset(SAMPLES / "coco128_instances", "train2017", annotations="instances")
    crowded = [i for i, r in enumerate(dataset.records) if any(s["iscrowd"] for s in r.segments)]
    samples = [dataset[i] for i in sorted({*crowded, *range(0, len(dataset), 12)})]
    results, scores = scored(samples, dataset.vocabulary, ("instance",))
    assert sum(int(sample.is_crowd.sum()) for sample in samples) == 10
    assert results["instance"]["all"] == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    assert results["proposal_recall"]["all"]["mean"] == 1.0
    there = {int(label) for s in samples for label in s.labels[~s.is_crowd]}
    assert scores.instance is not None
    precision = scores.instance.compute({"all": ()}).ap
    assert {i for i, value in enumerate(precision.tolist()) if value == 1.0} == there


def test_ade20k_label_maps_score_one() -> None:
    dataset = SemanticMaps(
        SAMPLES / "ade20k_samples" / "sampleData",
        "validation",
        builtin_vocabulary("ade20k_150"),
        images="images",
        maps="annotations",
        values=range(1, 151),  # 0 is "other"
    )
    results, scores = scored(dataset, dataset.vocabulary, ("semantic",))
    assert results["semantic"]["all"] == {"miou": 1.0, "miou_union": 1.0}
    assert scores.semantic is not None
    labelled = sum(int((class_map(sample) >= 0).sum()) for sample in dataset)
    assert int(scores.semantic.confusion.sum()) == labelled > 0


def test_lvis_annotations_score_one_by_lviss_rules(tmp_path: Path) -> None:
    content = json.loads((SAMPLES / "lvis_val100" / "lvis_val_100.json").read_text())
    content["images"] = content["images"][:8]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (tmp_path / "val2017").mkdir()
    for image in content["images"]:  # the sample has annotations alone
        name = image["coco_url"].rsplit("/", 1)[1]
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / "val2017" / name)
    (tmp_path / "lvis_val.json").write_text(json.dumps(content))
    dataset = CocoDataset(
        tmp_path, "val", annotations="instances", images=".", file="lvis_val.json"
    )
    samples = list(dataset)
    assert all(sample.absent is not None for sample in samples)
    results, _ = scored(samples, dataset.vocabulary, ("instance",))
    assert results["instance"]["all"] == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    assert len(dataset.vocabulary) == 1230
