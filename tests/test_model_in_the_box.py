import json
from dataclasses import asdict

import pytest

from ovseg_cli.run import Run
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.model_choice import TINY
from ovseg_cli.stages.pack import check_scores
from ovseg_cli.stages.session import Settings

NONE = dict.fromkeys(asdict(ShapesOptions()), 0)


def test_it_scores_what_its_card_says_on_images_made_anew(tmp_path):
    card = json.loads((TINY / "card.json").read_text())
    made = {**NONE, "seed": card["seed"], "test": card["check"]["images"]}
    make_shapes(tmp_path / "shapes", ShapesOptions(**made))
    box = Run(TINY)
    scores = check_scores(Settings(box, box.recipe()), tmp_path / "shapes")
    assert scores == pytest.approx(card["check"]["scores"], abs=0.02)
    assert scores["mask_accuracy"] > 0.5
    assert scores["recall50"] > 0.6


def test_it_is_small_and_in_half_precision():
    files = [path for path in TINY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    for kind, name in (("clip", "base"), ("clip", "masq"), ("proposals", "teacher")):
        tensors, _ = Run(TINY).load_artifact(kind, name)
        floats = [value for value in tensors.values() if value.is_floating_point()]
        assert {str(value.dtype) for value in floats} == {"torch.float16"}


def test_its_card_names_data_command_time_and_scores():
    card = (TINY / "README.md").read_text()
    for words in ("synthetic set", "tiny/masqclip", "seed", "minutes", "PQ", "mIoU", "novel"):
        assert words in card
