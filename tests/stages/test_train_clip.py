"""Training a small CLIP from captions: phases, determinism, several processes, any COCO folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_cli.clip.loading import clip_from_artifact
from ovseg_cli.clip.pair_encoder import encode_texts, encode_windows, tokenize_captions
from ovseg_cli.clip.small import build_small_clip
from ovseg_cli.datasets.captions import CaptionedImages
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run, load_tensors
from ovseg_cli.stages.caption_batches import PhasedBatches, PhaseOptions, check_phases
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.session import Settings
from ovseg_cli.stages.train_clip import train_clip

WORKER = Path(__file__).with_name("train_clip_worker.py")
CLIP = {
    "name": "small",
    "embed_dim": 32,
    "image_size": 64,
    "width": 32,
    "layers": 1,
    "heads": 2,
    "text_width": 32,
    "text_heads": 2,
    "token_width": 8,
}
PHASES = [
    {"split": "pairs_easy", "size": 32, "side": 40, "share": 3.0, "batch_size": 8},
    {"split": "pairs_window", "size": 64, "share": 1.0, "batch_size": 4},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    counts = {"train": 0, "val": 0, "test": 0, "pairs_crop": 0}
    make_shapes(folder, ShapesOptions(**counts, pairs_easy=48, pairs_window=8))
    return folder


def settings(run, data, *, clip=None, **train_clip):
    options = {"phases": PHASES, "steps": 4, "warmup": 2, **train_clip}
    sections = {
        "clip": {**CLIP, **(clip or {})},
        "dataset": {"root": str(data)},
        "train_clip": options,
    }
    return Settings(Run(run), Recipe("test", 0, sections))


def test_the_artifact_rebuilds_the_clip_that_was_trained(data, tmp_path):
    outcome = train_clip(settings(tmp_path, data))
    tensors, model = Run(tmp_path).load_artifact("clip", "base")
    encoder = clip_from_artifact(tensors, model)
    assert outcome.artifact == "clip/base"
    assert encoder.encode_text(["star", "a red ball"]).shape == (2, 32)
    assert encoder.encode_image(torch.rand(1, 3, 50, 70) * 255).shape == (1, 32)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made = settings(tmp_path / name, data)
        recipe = Recipe("test", seed, made.recipe.sections)
        train_clip(Settings(made.run, recipe))
        weights.append(made.run.load_artifact("clip", "base")[0]["visual.proj"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_it_learns_to_tell_captions_apart(data, tmp_path):
    phases = [{"split": "pairs_easy", "size": 40, "batch_size": 16}]
    outcome = train_clip(settings(tmp_path, data, phases=phases, steps=120, lr=3e-3))
    chance = torch.tensor(16.0).log()
    assert sum(outcome.results["losses"].values()) < 0.75 * chance


def test_two_processes_reach_the_weights_of_one_with_the_same_global_batch(data, tmp_path):
    # batch norm's statistics are each process's own, so the plain patch projection
    one = settings(tmp_path / "one", data, clip={"stem": "patch"}, steps=3)
    train_clip(one)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    sections = json.dumps(one.recipe.sections)
    command = [*launcher, "--nproc-per-node=2", str(WORKER), str(tmp_path / "two"), sections]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    two = load_tensors(tmp_path / "two" / "clip" / "base.safetensors")
    for key, value in one.run.load_artifact("clip", "base")[0].items():
        if not key.endswith("in_proj_bias"):  # a key's bias has no gradient but rounding
            torch.testing.assert_close(two[key], value, atol=2e-5, rtol=1e-3, msg=key)


def batches(data, **changes):
    phases = tuple(PhaseOptions(**phase) for phase in PHASES)
    sizes = {"grid": 8, "patch_size": 8, "context_length": 32}
    options = {"steps": 20, "captions_per_image": 2, "rehearsal": 0.3, "seed": 0, **changes}
    return PhasedBatches(phases, data, **sizes, **options)


def test_a_batch_is_a_function_of_seed_and_step_alone(data):
    first, second = batches(data), batches(data)
    later = second.batch_at(17)
    again = first.batch_at(17)
    assert torch.equal(later.pixels, again.pixels)
    assert torch.equal(later.tokens, again.tokens)
    assert later.corner == again.corner
    other = batches(data, seed=1).batch_at(17)
    assert later.pixels.shape != other.pixels.shape or not torch.equal(later.pixels, other.pixels)


def test_phases_follow_one_another_and_earlier_ones_are_rehearsed(data):
    made = batches(data, steps=200)
    sides = [made.batch_at(step).pixels.shape[-1] for step in range(200)]
    assert set(sides[:150]) == {32}
    assert 0.1 < np.mean([side == 32 for side in sides[150:]]) < 0.55


def test_a_window_stays_inside_the_towers_square(data):
    made = batches(data)
    corners = {made.batch_at(step).corner for step in range(15)}
    assert len(corners) > 3
    assert all(0 <= row <= 4 and 0 <= column <= 4 for row, column in corners)


def test_the_tokens_of_a_batch_are_its_captions(data):
    batch = batches(data).batch_at(0)
    assert set(batch.image_texts.flatten().tolist()) == set(batch.text_ids.tolist())
    texts = CaptionedImages(data, "pairs_easy", side=40).texts
    expected = tokenize_captions([texts[i] for i in batch.text_ids.tolist()], context_length=32)
    assert torch.equal(batch.tokens, expected)


def test_a_window_of_full_size_is_the_towers_own_embedding():
    torch.manual_seed(0)
    clip = build_small_clip(**{k: v for k, v in CLIP.items() if k != "name"}).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            encode_windows(clip, images, (0, 0)), clip.encode_image(images), atol=1e-5, rtol=1e-4
        )


def test_texts_without_padding_have_the_towers_own_embedding():
    torch.manual_seed(0)
    clip = build_small_clip(**{k: v for k, v in CLIP.items() if k != "name"}).eval()
    tokens = tokenize_captions(["star", "a red ball left of a cup"], context_length=32)
    with torch.no_grad():
        torch.testing.assert_close(
            encode_texts(clip, tokens), clip.encode_text(tokens), atol=1e-5, rtol=1e-4
        )


def test_any_word_tokenises_and_a_long_caption_loses_its_end():
    tokens = tokenize_captions(["zürich übermorgen", "star " * 100], context_length=32)
    assert tokens.shape == (2, 32)
    assert tokens[1, -1] == tokens.max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 36}, r"phases\[0\] size: 36 is not a multiple of 8 up to 64"),
        ({"size": 128}, r"size: 128"),
        ({"side": 16}, r"side: 16 is less than the size 32"),
        ({"batch_size": 1}, r"batch_size: 1"),
        ({"share": 0.0}, r"share: 0.0 is not positive"),
    ],
)
def test_a_phase_that_does_not_fit_is_refused(change, message):
    phase = PhaseOptions(**{"split": "train", "size": 32, **change})
    with pytest.raises(RecipeError, match=message):
        check_phases([phase], image_size=64, patch_size=8)


def test_a_recipe_without_phases_or_with_another_clip_is_refused(data, tmp_path):
    with pytest.raises(RecipeError, match="name at least one"):
        train_clip(settings(tmp_path, data, phases=[]))
    with pytest.raises(RecipeError, match="not 'open_clip'"):
        train_clip(settings(tmp_path, data, clip={"name": "open_clip"}))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "train2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, captions = [], []
    for i, (height, width) in enumerate(((50, 80), (90, 60), (64, 64), (40, 40))):
        pixels = np.random.default_rng(i).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "train2017" / f"{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg", "height": height, "width": width})
        if i < 3:
            captions.append({"id": i, "image_id": i, "caption": f"photo {i}"})
    content = {"images": images, "annotations": captions}
    (folder / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    return folder


def test_images_of_any_size_become_squares_and_those_without_captions_are_left_out(photos):
    images = CaptionedImages(photos, "train2017", side=48)
    assert len(images) == 3
    assert images.pixels([0, 1, 2]).shape == (3, 3, 48, 48)
    uncached = CaptionedImages(photos, "train2017", side=48, cache_bytes=0)
    assert torch.equal(uncached.pixels([1, 0]), images.pixels([1, 0]))


def test_it_trains_on_photos_with_captions(photos, tmp_path):
    phases = [{"split": "train2017", "size": 64, "batch_size": 4}]
    outcome = train_clip(settings(tmp_path / "run", photos, phases=phases, steps=2))
    assert outcome.results["skipped"] == 0


def test_missing_captions_or_images_are_named(photos):
    with pytest.raises(InputError, match=r"captions_val2017.json: no such file"):
        CaptionedImages(photos, "val2017", side=32)
    (photos / "train2017" / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"1\.jpg"):
        CaptionedImages(photos, "train2017", side=32).pixels([0, 1])


def test_damaged_captions_are_named(photos):
    path = photos / "annotations" / "captions_train2017.json"
    for content, message in (
        ("[]", "no list 'images'"),
        ('{"images": [{"id": 1}], "annotations": []}', "no image has a caption"),
        ('{"images": [{}], "annotations": []}', r"images\[0\] has no integer 'id'"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            CaptionedImages(photos, "train2017", side=32)


def test_a_file_name_that_leaves_the_folder_is_refused(photos):
    path = photos / "annotations" / "captions_train2017.json"
    path.write_text(path.read_text().replace("1.jpg", "../1.jpg"))
    with pytest.raises(InputError, match=r"\.\./1\.jpg"):
        CaptionedImages(photos, "train2017", side=32).pixels([1])


def test_a_recipe_of_a_published_clip_says_that_there_is_nothing_to_train(tmp_path):
    recipe = Recipe("r", sections={"clip": {"name": "open_clip"}})
    with pytest.raises(RecipeError, match=r"\[clip\] name: train-clip trains small or"):
        train_clip(Settings(Run(tmp_path), recipe))
