"""`evaluate`: one pass, every metric, results written whole."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from report_page import ReportPage
from tiny_clip import tiny_clip

from ovseg_cli.classification import Classification
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.datasets.class_lists import Part
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.framing import FramingOptions
from ovseg_cli.errors import InputError, OvsegError, RecipeError, RunError, UsageError
from ovseg_cli.metrics.class_groups import class_groups, group_means
from ovseg_cli.proposers import PROPOSERS
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.evaluate import evaluate
from ovseg_cli.stages.evaluate_options import EvaluateOptions
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.oracles import with_oracle
from ovseg_cli.stages.scored_segmenter import default_name, scored_vocabulary
from ovseg_cli.stages.scores import class_map, results_table, segment_map, sweep_table
from ovseg_cli.stages.scoring import score
from ovseg_cli.stages.session import Settings
from ovseg_cli.structures import EncodedMasks, FramedImage, Proposals, Sample, Vocabulary
from ovseg_cli.vocabulary import builtin_vocabulary

SMALL_CLIP = {"width": 32, "heads": 2, "layers": 1, "image_size": 32, "embed_dim": 16}
SMALL_PROPOSER = {
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "hidden_dim": 32,
    "mask_dim": 16,
    "queries": 5,
    "heads": 2,
    "encoder_layers": 1,
    "encoder_feedforward_dim": 32,
    "decoder_layers": 1,
    "feedforward_dim": 32,
}
MASK_RCNN = {
    "backbone": "resnet10",
    "backbone_width": 8,
    "backbone_norm": "group",
    "channels": 16,
    "candidates": 20,
    "regions": 20,
    "box_head_dim": 32,
    "mask_layers": 1,
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    options = ShapesOptions(
        seed=1, train=1, val=1, test=5, pairs_easy=1, pairs_crop=1, pairs_window=1
    )
    make_shapes(folder, options)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run directory with random weights."""
    torch.manual_seed(0)
    run = Run(tmp_path / "run")
    clip = build_small_clip(**SMALL_CLIP)
    model = {"architecture": "small", "options": SMALL_CLIP}
    run.save_artifact("clip", "base", clip.state_dict(), model)
    proposer = PROPOSERS["mask2former"](**SMALL_PROPOSER)
    model = {"name": "mask2former", "options": SMALL_PROPOSER}
    run.save_artifact("proposals", "teacher", proposer.state_dict(), model)
    return run


def settings_of(run: Run, shapes: Path, **sections: dict) -> Settings:
    content = {
        "dataset": {"root": str(shapes), **sections.pop("dataset", {})},
        "proposer": {"name": "mask2former", **SMALL_PROPOSER},
        "framing": {"short_side": None, "max_side": None},
        **sections,
    }
    return Settings(run, Recipe("test", sections=content))


class Oracle:
    """Annotated masks as proposals, and embeddings that are their classes' own texts."""

    def __init__(self, dataset: CocoDataset) -> None:
        self.dataset = dataset
        self.labels = torch.zeros(0, dtype=torch.int64)
        self.position = 0

    def propose(self, framed: FramedImage) -> Proposals:
        sample = self.dataset[self.position]
        self.position += 1
        self.labels = sample.labels
        height, width = framed.frame.padded
        logits = torch.full((len(sample.masks), height, width), -20.0)
        logits[:, : sample.masks.shape[1], : sample.masks.shape[2]] += 40 * sample.masks
        return Proposals(logits, framed.frame, torch.ones(len(sample.masks)))

    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        rows = torch.eye(len(self.dataset.vocabulary))[self.labels]
        return EncodedMasks(rows, proposals.mask_logits, torch.ones(len(rows)).bool())


class WordClip(ClipEncoder):
    """A text tower that gives every word its own axis."""

    def encode_text(self, texts: Sequence[str], batch_size: int = 128) -> torch.Tensor:
        return torch.eye(len(texts))


class Distracted(Oracle):
    """Every mask twice: as another class, too, by a proposal that is hardly an object."""

    def propose(self, framed: FramedImage) -> Proposals:
        given = super().propose(framed)
        scores = torch.cat([torch.full_like(given.scores, 0.01), given.scores])
        self.labels = torch.cat([(self.labels + 1) % len(self.dataset.vocabulary), self.labels])
        return Proposals(given.mask_logits.repeat(2, 1, 1), given.frame, scores)


class Mislabelled(Oracle):
    """The annotated masks, every one with another class's embedding."""

    asked = 0

    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        self.asked += 1
        rows = torch.eye(len(self.dataset.vocabulary))[(self.labels + 1) % 28]
        return EncodedMasks(rows, proposals.mask_logits, torch.ones(len(rows)).bool())


def oracle_segmenter(
    dataset: CocoDataset, oracle: Oracle | None = None, *, object_score: bool = True
) -> Segmenter:
    oracle = oracle or Oracle(dataset)
    return Segmenter(
        oracle,
        oracle,
        WordClip(tiny_clip().model),
        classification=Classification(background=None, object_score=object_score),
        framing=FramingOptions(None, None),
    )


def test_ground_truth_as_prediction_scores_exactly_one(shapes: Path) -> None:
    dataset = CocoDataset(shapes, "test")
    segmenter = oracle_segmenter(dataset)
    options = EvaluateOptions(crop_accuracy=False)
    results, rows = score(segmenter, dataset, dataset.vocabulary, options).compute()
    for group in ("all", "base", "novel", "things", "stuff"):
        assert results["semantic"][group] == {"miou": 1.0, "miou_union": 1.0}
        assert results["panoptic"][group]["pq"] == 1.0
        assert results["proposal_recall"][group]["mean"] == 1.0
        assert results["mask_accuracy"][group] == 1.0
    assert results["instance"]["all"] == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    assert results["instance"]["stuff"]["ap"] is None
    assert len(rows) == 28


@pytest.mark.parametrize("oracle_masks", [False, True])
def test_a_run_is_scored_and_the_results_are_written(
    run: Run, shapes: Path, oracle_masks: bool
) -> None:
    settings = settings_of(run, shapes, evaluate={"oracle_masks": oracle_masks, "images": 3})
    evaluation = evaluate(settings)
    name = "ground_truth-base" if oracle_masks else "teacher-base"
    assert evaluation.folder == run.path / "evaluation" / "shapes-test" / name
    content = json.loads((evaluation.folder / "metrics.json").read_text())
    assert content["results"] == evaluation.results
    assert set(content["results"]) >= {
        "semantic",
        "panoptic",
        "instance",
        "mask_accuracy",
        "crop_accuracy",
    }
    assert ("proposal_recall" in content["results"]) != oracle_masks
    with (evaluation.folder / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows][:2] == ["ball", "wheel"]
    assert run.manifest()[-1]["stage"] == "evaluate"


def test_a_run_is_shown_on_a_page(run: Run, shapes: Path) -> None:
    settings = settings_of(run, shapes, evaluate={"images": 3})
    evaluation = evaluate(settings, name="<b>mine")
    path = evaluation.folder / "report.html"
    page = ReportPage(path.read_text(encoding="utf-8"))
    assert "shapes-test: <b>mine" in page.text()
    assert len(page.pictures) == 6
    assert {row[0] for row in page.rows} >= {"ball", "wheel", "PQ", "mask AP"}
    assert "proposals/teacher" in page.text()
    evaluate(settings, name="<b>mine", report=False)
    assert not path.exists()


def test_oracle_classes_score_what_the_proposals_are_worth(shapes: Path) -> None:
    """Annotated masks as proposals, that a text tower without any meaning would name."""
    dataset = CocoDataset(shapes, "test")
    encoder = Mislabelled(dataset)
    segmenter = oracle_segmenter(dataset, encoder)
    figures = {}
    for oracle in (None, "iou", "label"):
        encoder.position = encoder.asked = 0
        options = EvaluateOptions(oracle_classes=oracle, crop_accuracy=oracle is not None)
        results, _ = score(segmenter, dataset, dataset.vocabulary, options).compute()
        figures[oracle] = results["panoptic"]["all"]["pq"], results["semantic"]["all"]["miou"]
        assert (encoder.asked == 0) == (oracle is not None)  # nor does it name masks or crops
        named = {"mask_accuracy", "crop_accuracy"} & set(results)
        assert named == (set() if oracle else {"mask_accuracy"})
    assert figures == {None: (0.0, 0.0), "iou": (1.0, 1.0), "label": (1.0, 1.0)}


class Refining(Mislabelled):
    """Gives empty masks back, in the place of the proposals."""

    refine = True

    def encode(self, framed: FramedImage, proposals: Proposals) -> EncodedMasks:
        return replace(super().encode(framed, proposals), mask_logits=-proposals.mask_logits.abs())


def test_oracle_classes_name_the_masks_that_a_mask_encoder_refines(shapes: Path) -> None:
    dataset = CocoDataset(shapes, "test")
    for refine in (True, False):
        encoder = Refining(dataset)
        encoder.refine = refine
        segmenter = oracle_segmenter(dataset, encoder)
        options = EvaluateOptions(tasks=("panoptic",), oracle_classes="label", images=2)
        results, _ = score(segmenter, dataset, dataset.vocabulary, options).compute()
        assert results["panoptic"]["all"]["pq"] == (0.0 if refine else 1.0)
        assert encoder.asked == 2 * refine


@pytest.mark.parametrize("option", [{"grounding": True}, {"sweep": {}}, {"input_sizes": [32]}])
def test_oracle_classes_leave_nothing_to_compare_classifiers_by(
    run: Run, shapes: Path, option: dict
) -> None:
    settings = settings_of(run, shapes, evaluate={"oracle_classes": "iou", **option})
    with pytest.raises(RecipeError, match=rf"\[evaluate\] {next(iter(option))}: is about the"):
        evaluate(settings)


def test_a_sweep_by_flag_is_refused_with_oracle_classes_too(run: Run, shapes: Path) -> None:
    with pytest.raises(RecipeError, match=r"\[evaluate\] sweep: is about the"):
        evaluate(settings_of(run, shapes), sweep=True, oracle="classes")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../a"])
def test_results_stay_in_a_folder_of_the_run(run: Run, shapes: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a folder"):
        evaluate(settings_of(run, shapes), name=name)


def test_oracle_classes_and_sensitivity_are_written_beside_the_ordinary_results(
    run: Run, shapes: Path
) -> None:
    options = {"images": 2, "crop_accuracy": False, "sensitivity": True}
    plain = evaluate(settings_of(run, shapes, evaluate=options))
    bound = evaluate(settings_of(run, shapes, evaluate={**options, "oracle_classes": "iou"}))
    names = ["teacher-base", "teacher-base-oracle_iou"]  # whose CLIP the sensitivity is of
    assert [e.folder.name for e in (plain, bound)] == names
    assert bound.results["semantic"]["all"]["miou"] > plain.results["semantic"]["all"]["miou"]
    shares = plain.results["sensitivity"]
    assert shares == bound.results["sensitivity"]
    assert shares["all"]["masks"] == shares["base"]["masks"] + shares["novel"]["masks"] > 0
    assert "one of the two above it" in [row[0] for row in results_table(plain.results)]


def test_the_flag_and_the_recipes_option_are_the_same_and_leave_the_plain_results(
    run: Run, shapes: Path
) -> None:
    quick = {"images": 2, "crop_accuracy": False}
    settings = settings_of(run, shapes, evaluate=quick)
    plain = evaluate(settings, report=False)
    before = {path: path.read_bytes() for path in plain.folder.iterdir()}
    for oracle, option in (
        ("masks", {"oracle_masks": True}),
        ("classes", {"oracle_classes": "iou"}),
    ):
        flag = evaluate(settings, oracle=oracle, report=False)
        recipe = evaluate(settings_of(run, shapes, evaluate={**quick, **option}), report=False)
        assert flag.folder == recipe.folder != plain.folder
        assert flag.results == recipe.results
        assert run.manifest()[-1]["fingerprint"] == run.manifest()[-2]["fingerprint"]
    assert before == {path: path.read_bytes() for path in plain.folder.iterdir()}
    assert {path.name for path in plain.folder.parent.iterdir()} == {
        "teacher-base",
        "ground_truth-base",
        "teacher-oracle_iou",
    }


def test_an_oracle_keeps_the_kind_that_the_recipe_names_and_is_one_of_two() -> None:
    recipe = Recipe("test", sections={"evaluate": {"oracle_classes": "label", "images": 1}})
    assert with_oracle(recipe, "classes").section("evaluate") == recipe.section("evaluate")
    assert with_oracle(recipe, "masks").section("evaluate")["oracle_masks"] is True
    with pytest.raises(UsageError, match="--oracle boxes: there are masks and classes"):
        with_oracle(recipe, "boxes")


def test_the_table_has_a_column_a_group_in_percent() -> None:
    results = {
        "semantic": {"all": {"miou": 0.5, "miou_union": 0.25}, "base": {"miou": None}},
        "crop_accuracy": {"all": 0.125, "base": 1.0},
    }
    assert results_table(results) == [
        ("%", "all", "base (seen)"),
        ("mIoU", "50.0", ""),
        ("mIoU, classes of truth or prediction", "25.0", ""),
        ("annotated crops named by CLIP", "12.5", "100.0"),
    ]
    grounding = {"grounding": {"panoptic": {"all": {"pq": 0.75}}}}
    assert results_table(grounding) == [("%", "all"), ("grounding PQ", "75.0")]


def test_the_table_of_a_sweep_has_a_row_a_setting() -> None:
    parts = {"panoptic": {"all": {"pq": 0.5}, "novel": {"pq": None}}, "mask_accuracy": {"all": 1.0}}
    assert sweep_table([{"alpha": 0.4, "beta": 0.8, "results": parts}]) == [
        ("alpha", "beta", "PQ", "PQ unseen", "masks named"),
        ("0.4", "0.8", "50.0", "", "100.0"),
    ]


def test_scores_are_the_same_each_time(run: Run, shapes: Path) -> None:
    settings = settings_of(run, shapes, evaluate={"images": 2})
    first, second = evaluate(settings, name="a"), evaluate(settings, name="b")
    assert first.results == second.results
    assert first.folder != second.folder


def test_an_evaluation_that_is_stopped_writes_nothing(
    run: Run, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = CocoDataset.__getitem__

    def stop_at_the_second(self: CocoDataset, index: int) -> Sample:
        if index == 1:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(CocoDataset, "__getitem__", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings_of(run, shapes))
    assert not (run.path / "evaluation").exists()
    assert not (run.path / ".lock").exists()
    assert run.manifest() == []


def test_a_run_that_another_process_writes_to_is_refused_before_any_image(
    run: Run, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(self: CocoDataset, index: int) -> Sample:
        raise AssertionError(f"image {index} was read")

    monkeypatch.setattr(CocoDataset, "__getitem__", unexpected)
    with run.lock(), pytest.raises(RunError, match="is writing there; wait for it"):
        evaluate(settings_of(run, shapes))
    assert run.manifest() == []


def test_instances_are_scored_where_there_is_nothing_else(run: Run, shapes: Path) -> None:
    settings = settings_of(
        run, shapes, dataset={"annotations": "instances"}, evaluate={"images": 2}
    )
    results = evaluate(settings, split="test").results
    assert "semantic" not in results
    assert "instance" in results


@pytest.mark.parametrize("encoder", ["mask_class_tokens", "masked_crops"])
def test_a_proposer_that_finds_nothing_scores_nothing(run: Run, shapes: Path, encoder: str) -> None:
    certain = {**MASK_RCNN, "score_threshold": 1.0}  # which no probability is above
    proposer = PROPOSERS["mask_rcnn"](**MASK_RCNN)
    model = {"name": "mask_rcnn", "options": MASK_RCNN}
    run.save_artifact("proposals", "teacher", proposer.state_dict(), model)
    settings = settings_of(
        run,
        shapes,
        proposer={"name": "mask_rcnn", **certain},
        mask_encoder={"name": encoder},
        evaluate={"images": 2},
    )
    results = evaluate(settings).results
    assert results["panoptic"]["all"]["pq"] == 0
    assert results["instance"]["all"]["ap50"] == 0
    assert results["semantic"]["all"]["miou"] == 0
    assert results["proposal_recall"]["all"]["recall50"] == 0
    assert "mask_accuracy" in results  # of the annotated masks, which are there


def test_an_empty_split_is_refused(run: Run, shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    (folder / "annotations" / "panoptic_test").mkdir(parents=True)
    (folder / "test").mkdir()
    content = json.loads((shapes / "annotations" / "panoptic_test.json").read_text())
    content |= {"images": [], "annotations": []}
    (folder / "annotations" / "panoptic_test.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="empty-test: no images to score"):
        evaluate(settings_of(run, folder))


def test_a_recipes_words_keep_the_datasets_groups() -> None:
    classes = Vocabulary(("a", "b"), (("a",), ("b",)), (True, False), (True, False))
    words = scored_vocabulary(classes, "cat/kitten,grass")
    assert words.synonyms == (("cat", "kitten"), ("grass",))
    assert words.is_thing == classes.is_thing
    assert words.seen == classes.seen
    with pytest.raises(RecipeError, match="1 classes, but the dataset has 2"):
        scored_vocabulary(classes, "cat")


def test_maps_number_segments_and_leave_void_out() -> None:
    masks = torch.zeros(2, 1, 4, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 0, 2:] = True
    sample = Sample(
        torch.zeros(3, 1, 4, dtype=torch.uint8),
        1,
        "a.png",
        masks,
        torch.tensor([7, 3]),
        torch.zeros(2, dtype=torch.bool),
    )
    assert segment_map(sample).tolist() == [[1, 0, 2, 2]]
    assert class_map(sample).tolist() == [[7, -1, 3, 3]]
    empty = replace(sample, masks=masks[:0], labels=sample.labels[:0], is_crowd=sample.is_crowd[:0])
    assert class_map(empty).tolist() == [[-1, -1, -1, -1]]


@pytest.mark.parametrize(("part", "group"), [("seen", "base"), ("unseen", "novel")])
def test_a_constrained_protocol_scores_things_and_stuff_of_its_group_alone(
    shapes: Path, part: Part, group: str
) -> None:
    dataset = CocoDataset(shapes, "test", part=part)
    options = EvaluateOptions(crop_accuracy=False)
    segmenter = oracle_segmenter(dataset)
    results, rows = score(segmenter, dataset, dataset.vocabulary, options).compute()
    assert len(rows) == {"base": 20, "novel": 8}[group]
    assert {row["seen"] for row in rows} == {group == "base"}
    assert {row["thing"] for row in rows} == {True, False}
    for metric in ("semantic", "panoptic", "instance", "proposal_recall", "mask_accuracy"):
        assert results[metric]["all"] == results[metric][group]
        assert {"base", "novel"} & set(results[metric]) == {group}
    assert results["panoptic"]["all"]["pq"] == 1.0
    assert results["instance"]["all"]["ap50"] == 1.0
    assert results["semantic"]["all"]["miou_union"] == 1.0


def test_pixels_of_classes_that_are_left_out_are_void(shapes: Path) -> None:
    whole, novel = CocoDataset(shapes, "test"), CocoDataset(shapes, "test", part="unseen")
    index = {sample.image_id: sample for sample in whole}
    unseen = torch.tensor([not seen for seen in whole.vocabulary.seen])
    assert len(novel)
    for sample in novel:
        full = index[sample.image_id]
        kept = unseen[full.labels]
        assert kept.any()
        assert torch.equal(sample.masks, full.masks[kept])
        assert torch.equal(class_map(sample) < 0, ~full.masks[kept].any(0))


@pytest.mark.parametrize(
    ("artifacts", "name"),
    [
        (["proposals/teacher", "clip/base"], "teacher-base"),
        (["proposals/teacher", "clip/base", "clip/masq"], "teacher-masq"),
        (["proposals/teacher", "clip/maft", "clip/masq"], "teacher-maft-masq"),
        (["clip/maft"], "sam-maft"),
        ([], "sam"),
    ],
)
def test_the_results_folder_has_the_artifacts_names(artifacts: list[str], name: str) -> None:
    assert default_name(artifacts, "sam", None) == name


@pytest.mark.parametrize(
    ("artifacts", "asked", "name"),
    [
        (["proposals/teacher", "clip/base", "clip/masq"], False, "teacher-oracle_iou"),
        (["proposals/teacher", "clip/base", "clip/rma"], True, "teacher-rma-oracle_iou"),
        (["clip/base", "clip/rma"], False, "sam-oracle_iou"),
    ],
)
def test_oracle_classes_are_named_with_clip_only_where_it_is_asked(
    artifacts: list[str], asked: bool, name: str
) -> None:
    assert default_name(artifacts, "sam", "iou", clip_is_asked=asked) == name


def test_the_results_folder_tells_the_class_list(run: Run, shapes: Path) -> None:
    options = {"images": 1, "crop_accuracy": False}
    settings = settings_of(run, shapes, dataset={"classes": "shapes"}, evaluate=options)
    assert evaluate(settings).folder.parent.name == "shapes-test-shapes"


@pytest.mark.parametrize("protocol", ["constrained_base", "constrained_novel"])
def test_the_results_folder_tells_the_protocol(run: Run, shapes: Path, protocol: str) -> None:
    settings = settings_of(run, shapes, evaluate={"protocol": protocol, "images": 1})
    evaluation = evaluate(settings)
    folder = run.path / "evaluation" / f"shapes-test-{protocol}" / "teacher-base"
    assert evaluation.folder == folder
    assert json.loads((folder / "metrics.json").read_text())["protocol"] == protocol


def test_a_constrained_protocol_needs_seen_classes(run: Run, shapes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    (copy / "annotations" / "vocabulary.json").unlink()
    for protocol, message in (
        (
            "constrained_base",
            r"copy-test does not say which classes are seen; set dataset\.classes",
        ),
        ("constrained_novel", r"panoptic_test\.json: no unseen class is left; choose a class list"),
    ):
        with pytest.raises(OvsegError, match=message):
            evaluate(settings_of(run, copy, evaluate={"protocol": protocol}))


def test_results_without_the_object_score_have_a_name_of_their_own(run: Run, shapes: Path) -> None:
    given = evaluate(settings_of(run, shapes, evaluate={"images": 3}))
    settings = settings_of(
        run, shapes, evaluate={"images": 3}, classification={"object_score": False}
    )
    without = evaluate(settings, name="no-object-score")
    assert without.folder.name == "no-object-score"
    assert given.folder.name == "teacher-base"
    assert given.results["proposal_recall"] == without.results["proposal_recall"]


def test_the_object_score_tells_which_of_two_classes_counts(shapes: Path) -> None:
    dataset = CocoDataset(shapes, "test")
    options = EvaluateOptions(crop_accuracy=False, mask_accuracy=False)
    figures = []
    for object_score in (True, False):
        segmenter = oracle_segmenter(dataset, Distracted(dataset), object_score=object_score)
        results, _ = score(segmenter, dataset, dataset.vocabulary, options).compute()
        figures.append((results["semantic"]["all"]["miou"], results["instance"]["all"]["ap50"]))
    assert figures[0] == (1.0, 1.0)
    assert figures[1][0] < 1.0
    assert figures[1][1] < 1.0


def test_tasks_that_the_annotations_do_not_allow_are_refused(run: Run, shapes: Path) -> None:
    settings = settings_of(
        run, shapes, dataset={"annotations": "instances"}, evaluate={"tasks": ["semantic"]}
    )
    message = r"\[evaluate\] tasks: semantic cannot be scored with instances annotations"
    with pytest.raises(RecipeError, match=message):
        evaluate(settings)


def test_all_is_the_mean_of_base_and_novel_by_their_numbers_of_classes() -> None:
    """As in every row of MasQCLIP's and MaskCLIP's tables: (48 base + 17 novel) / 65."""
    vocabulary = builtin_vocabulary("coco_48_17")
    groups = class_groups(vocabulary)
    assert (len(groups["base"]), len(groups["novel"])) == (48, 17)
    values = np.random.default_rng(0).random(65)
    means = group_means(values, groups)
    assert means["all"] == pytest.approx((48 * means["base"] + 17 * means["novel"]) / 65)
    published = group_means(np.where(np.isin(np.arange(65), groups["base"]), 51.0, 31.9), groups)
    assert published["all"] == pytest.approx(46.0, abs=0.05)  # MasQCLIP, table 2
