"""Mining as a stage, with networks of random weights: what is written, resumed and refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained_run import untrained_run

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.datasets.mined_pairs import MinedPairs
from ovseg_cli.errors import InputError, RecipeError, RunError, UsageError
from ovseg_cli.mining.openclip_export import FILL, filled_crop
from ovseg_cli.mining.pairing import Pairing
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.mine_captions import mine_captions
from ovseg_cli.stages.mining_options import MineCaptionsOptions, caption_source, mining_recipe
from ovseg_cli.stages.session import Settings
from ovseg_cli.training.signals import Interrupted

COUNTS = {"train": 0, "val": 5, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0}
MINE = {"tagger": "rules", "shard_images": 2, "captions": "all"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(**COUNTS))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def settings_of(run, dataset=None, *, restart=False, **options):
    recipe = Run(run).recipe()
    sections = {**recipe.sections, "mine_captions": {**MINE, **options}}
    if dataset is not None:
        sections["dataset"] = {"root": str(dataset)}
    return Settings(Run(run), replace(recipe, sections=sections), restart=restart)


def mined(run, shapes, **options):
    return mine_captions(settings_of(run, shapes, **options), folder=shapes, split="val")


def shards(run):
    return {path.name: path.read_bytes() for path in (run / "pairs").glob("shard-*.jsonl")}


@pytest.fixture(scope="module")
def finished(trained, shapes, tmp_path_factory):
    """A run in which everything was mined without a break, and what the stage said."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "run"))
    return run, mined(run, shapes, precision=True, export_tsv=True)


def test_the_nouns_of_the_captions_are_paired_once_an_image(finished, shapes):
    run, outcome = finished
    captions = json.loads((shapes / "annotations" / "captions_val.json").read_text())
    spoken = {
        image["id"]: " ".join(
            entry["caption"]
            for entry in captions["annotations"]
            if entry["image_id"] == image["id"]
        ).split()
        for image in captions["images"]
    }
    names = set(json.loads((shapes / "annotations" / "vocabulary.json").read_text())["names"])
    pairs = list(MinedPairs(run / "pairs"))
    found = {(pair.image_id, pair.noun) for pair in pairs}
    assert len(found) == len(pairs) == outcome.results["pairs"] > 5
    assert {noun for _, noun in found} <= names
    wanted = {(image, word.strip(",")) for image, words in spoken.items() for word in words}
    assert {(image, word) for image, word in wanted if word in names} == found
    assert outcome.results["images"] == 5
    assert outcome.results["captions"] == 25


def test_each_pair_is_what_clip_likes_best(finished, shapes):
    run, _ = finished
    settings = settings_of(run)
    recipe = mining_recipe(settings.recipe, MineCaptionsOptions(**MINE))
    segmenter = Segmenter.from_run(Run(run), recipe)
    pairs = MinedPairs(run / "pairs")
    framed = segmenter.frame(pairs.pixels(0))
    proposals = segmenter.propose(framed)
    encoded = segmenter.encode(framed, proposals)
    text = segmenter.clip.encode_text([pairs.noun(0)])
    cosines = torch.cosine_similarity(encoded.embeddings, text)
    cosines[~encoded.valid] = -2
    assert pairs[0].score == pytest.approx(float(cosines.max()), abs=2e-5)
    best = proposals.mask_logits[cosines.argmax()][None, None]
    mask = torch.nn.functional.interpolate(best, pairs[0].size, mode="bilinear")[0, 0] > 0
    agree = (mask == pairs.mask(0)).float().mean()
    assert agree > 0.999
    rows, columns = pairs.mask(0).nonzero().unbind(1)
    x0, y0, x1, y1 = pairs[0].box
    assert [x0, y0, x1, y1] == [
        int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    ]
    assert pairs[0].area == int(pairs.mask(0).sum())


def test_statistics_add_up(finished):
    run, outcome = finished
    statistics = json.loads((run / "pairs" / "statistics.json").read_text())
    lines = [json.loads(line) for line in (run / "pairs" / "nouns.jsonl").open()]
    assert sum(line["pairs"] for line in lines) == statistics["pairs"]
    assert len(lines) == statistics["unique_nouns"] + statistics["nouns_never_paired"]
    assert sum(statistics["top_nouns"].values()) == statistics["pairs"]
    assert set(statistics["seconds"]) >= {"read", "propose", "encode", "choose", "captions"}
    precision = statistics["precision"]
    assert precision == outcome.results["precision"]
    assert precision["judged"] + precision["not_annotated"] == statistics["pairs"]
    assert precision["unknown"] == 0


def test_the_manifest_says_what_the_pairs_were_made_from(finished, shapes):
    run, _ = finished
    manifest = json.loads((run / "pairs" / "manifest.json").read_text())
    assert manifest["tagger"] == "rules"
    assert (manifest["dataset"], manifest["split"]) == (str(shapes), "val")
    assert {"clip/base", "proposals/teacher"} <= set(manifest["inputs"])
    assert Run(run).manifest()[-1]["stage"] == "mine-captions"


def test_the_list_for_the_other_trainer(finished):
    run, outcome = finished
    with Path(outcome.results["exported"]).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    pairs = MinedPairs(run / "pairs")
    assert [row["title"] for row in rows] == [pairs.noun(i) for i in range(len(pairs))]
    crop = torch.from_numpy(np.array(Image.open(rows[0]["filepath"]))).permute(2, 0, 1)
    x0, y0, x1, y1 = pairs[0].box
    inside = pairs.mask(0)[y0:y1, x0:x1]
    assert torch.equal((crop != torch.tensor(FILL)[:, None, None]).any(0), inside)
    assert torch.equal(crop[:, inside], pairs.pixels(0)[:, y0:y1, x0:x1][:, inside])


def test_a_pixel_of_the_fills_colour_stays_inside():
    pixels = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    mask = torch.tensor([[True, False], [False, False]])
    crop = filled_crop(pixels, mask, (0, 0, 2, 2))
    assert crop[:, 0, 0].tolist() == [124, 116, 104]
    assert crop[:, 1, 1].tolist() == list(FILL)


class Stopped(Exception):
    pass


def test_a_stopped_mining_goes_on_to_the_same_bytes(run, shapes, finished, monkeypatch):
    whole, pairs_of, seen = finished[0], Pairing.pairs_of, []

    def third_fails(self, image):
        seen.append(image.image)
        if len(seen) == 4:
            raise Stopped
        return pairs_of(self, image)

    monkeypatch.setattr(Pairing, "pairs_of", third_fails)
    with pytest.raises(Stopped):
        mined(run, shapes)
    assert sorted(shards(run)) == ["shard-00000.jsonl"]
    assert not (run / "pairs" / "statistics.json").exists()
    outcome = mined(run, shapes)
    assert len(seen) == 4 + 3  # the first shard's two images are not looked at again
    assert shards(run) == shards(whole)
    assert outcome.results["pairs"] == finished[1].results["pairs"]
    assert (run / "pairs" / "nouns.jsonl").read_bytes() == (
        whole / "pairs" / "nouns.jsonl"
    ).read_bytes()


def test_a_killed_process_loses_and_doubles_nothing(run, shapes, finished):
    code = (
        "import sys, time\n"
        "from ovseg_cli.mining.pairing import Pairing\n"
        "from ovseg_cli.cli import main\n"
        "pairs_of = Pairing.pairs_of\n"
        "Pairing.pairs_of = lambda self, image: time.sleep(0.2) or pairs_of(self, image)\n"
        "main()\n"
    )
    options = [f"--set=mine_captions.{key}={value}" for key, value in MINE.items()]
    command = [sys.executable, "-c", code, "mine-captions", str(shapes), "--split=val"]
    command += [f"--run={run}", "--device=cpu", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not shards(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert 0 < len(shards(run)) < 3, said
    mined(run, shapes)
    assert shards(run) == shards(finished[0])


def test_an_interruption_is_told_and_leaves_whole_shards(run, shapes, monkeypatch):
    pairs_of = Pairing.pairs_of

    def interrupted(self, image):
        if shards(run):
            os.kill(os.getpid(), signal.SIGINT)
        return pairs_of(self, image)

    monkeypatch.setattr(Pairing, "pairs_of", interrupted)
    with pytest.raises(Interrupted, match="finished shards are kept") as stopped:
        mined(run, shapes)
    assert stopped.value.signal_number == signal.SIGINT
    assert sorted(shards(run)) == ["shard-00000.jsonl"]


def test_done_is_done_until_something_changes(run, shapes):
    first = mined(run, shapes, shard_images=5)
    assert mined(run, shapes, shard_images=5).already_done
    written = (run / "pairs" / "shard-00000.jsonl").stat().st_mtime_ns
    exported = mined(run, shapes, shard_images=5, export_tsv=True)
    assert Path(exported.results["exported"]).is_file()
    assert (run / "pairs" / "shard-00000.jsonl").stat().st_mtime_ns == written
    stricter = mined(run, shapes, shard_images=5, floor=1.0)
    assert stricter.results["pairs"] == 0 < first.results["pairs"]
    assert stricter.results["nouns_never_paired"] == first.results["unique_nouns"]
    assert not (run / "pairs" / "openclip").exists()
    assert mined(run, shapes, shard_images=5).results["pairs"] == first.results["pairs"]


def test_the_size_of_a_shard_changes_no_pair(run, shapes, finished):
    mined(run, shapes, shard_images=100)
    together = b"".join(content for _, content in sorted(shards(finished[0]).items()))
    assert shards(run) == {"shard-00000.jsonl": together}


def test_a_list_of_captions_and_images_that_cannot_be_read(run, tmp_path):
    images = tmp_path / "photos"
    images.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (90, 120, 150)).save(images / name)
    (images / "bad.png").write_bytes(b"no image")
    captions = tmp_path / "captions.jsonl"
    said = (("a.png", "a dog on grass"), ("bad.png", "a cat"), ("gone.png", "x"), ("b.png", "!"))
    lines = [json.dumps({"image": name, "caption": text}) + "\n" for name, text in said]
    captions.write_text("".join(lines))
    outcome = mine_captions(settings_of(run), folder=images, captions=captions)
    assert outcome.results["images_failed"] == 1  # "x" and "!" are no nouns: not looked for
    assert outcome.results["captions_without_nouns"] == 2
    statistics = json.loads((run / "pairs" / "statistics.json").read_text())
    assert statistics["failures"][0]["image"] == "bad.png"
    assert {pair.image for pair in MinedPairs(run / "pairs")} <= {"a.png"}
    assert statistics["images_without_proposals"] + (statistics["pairs"] == 2) == 1


def test_nouns_that_the_text_tower_cannot_read_are_never_paired(run, shapes, monkeypatch):
    encode_text = ClipEncoder.encode_text

    def short(self, texts, batch_size=128):
        long = [text for text in texts if "b" in text]
        return encode_text(self, ["x " * 500] if long else texts, batch_size)

    monkeypatch.setattr(ClipEncoder, "encode_text", short)
    outcome = mined(run, shapes)
    statistics = json.loads((run / "pairs" / "statistics.json").read_text())
    assert statistics["never_paired"]
    assert all("b" in noun for noun in statistics["never_paired"])
    assert outcome.results["pairs"] > 0


def test_which_captions_a_folder_means(shapes, tmp_path):
    def split_of(root, wanted="train", split=None):
        return caption_source(root, split=split, captions=None, wanted=wanted).split

    assert split_of(shapes, wanted="val") == "val"
    for name in ("train2017", "val2017"):
        (tmp_path / name).mkdir()
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"captions_{name}.json").write_text("{}")
    assert split_of(tmp_path) == "train2017"
    assert split_of(tmp_path, split="val2017") == "val2017"
    (tmp_path / "annotations" / "captions_train2017.json").rename(
        tmp_path / "annotations" / "captions_other.json"
    )
    with pytest.raises(UsageError, match="has captions of other, val2017; choose one"):
        split_of(tmp_path)
    (tmp_path / "annotations" / "captions_other.json").unlink()
    assert split_of(tmp_path) == "val2017"
    with pytest.raises(UsageError, match="name a list of captions with --captions"):
        split_of(tmp_path / "val2017")
    with pytest.raises(UsageError, match="no such folder"):
        split_of(tmp_path / "gone")
    with pytest.raises(UsageError, match="give one"):
        caption_source(tmp_path, split="val2017", captions=Path("a.csv"), wanted="train")


def test_what_cannot_be_mined_is_refused_first(run, shapes, tmp_path):
    (run / "proposals" / "teacher.safetensors").unlink()
    with pytest.raises(RunError, match="ovseg train-proposals"):
        mined(run, shapes)
    with pytest.raises(RecipeError, match="no annotated masks"):
        mine_captions(
            settings_of(run, shapes, precision=True), folder=shapes, captions=tmp_path / "a.csv"
        )
    with pytest.raises(RecipeError, match="floor: 2 is not less than or equal to 1"):
        mined(run, shapes, floor=2)


def test_captions_without_nouns_are_refused(run, tmp_path):
    (tmp_path / "a.csv").write_text("image,caption\na.png,running quickly\n")
    with pytest.raises(InputError, match="no noun in any caption"):
        mine_captions(settings_of(run), folder=tmp_path, captions=tmp_path / "a.csv")


def test_mining_looks_through_the_clip_that_is_not_tuned_yet(run):
    recipe = settings_of(run).recipe
    tuned = {"name": "masked_crops", "region": "image", "tuned": "joint", "prompts": 3}
    sections = {**recipe.sections, "mask_encoder": tuned, "in_vocabulary": {"name": "x"}}
    found = mining_recipe(replace(recipe, sections=sections), MineCaptionsOptions(batch_size=7))
    assert found.section("mask_encoder") == {
        "name": "masked_crops",
        "region": "image",
        "batch_size": 7,
    }
    assert found.section("in_vocabulary") == {}
    default = mining_recipe(recipe, MineCaptionsOptions()).section("mask_encoder")
    assert (default["region"], default["fill"]) == ("box", "mean")
