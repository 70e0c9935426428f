import shlex

import numpy as np
import pytest
from PIL import Image
from untrained_run import untrained_run

from ovseg_cli.errors import InputError
from ovseg_cli.stages import demo as stage
from ovseg_cli.stages import model_choice
from ovseg_cli.stages.demo import SAMPLES, demo, sample_scenes, write_samples


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An untrained model in the place of the one in the box."""
    monkeypatch.setattr(model_choice, "TINY", untrained_run(tmp_path / "tiny"))


def test_the_sample_images_are_drawn_by_the_synthetic_world() -> None:
    shipped = [np.asarray(Image.open(path)) for path in sorted(SAMPLES.glob("*.png"))]
    drawn = sample_scenes()
    assert len(shipped) == len(drawn) == 6
    for image, scene in zip(shipped, drawn, strict=True):  # processors differ in the last bit
        assert image.shape == scene.shape
        assert (image != scene).mean() < 1e-3


def test_the_sample_images_can_be_drawn_again(tmp_path) -> None:
    write_samples(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        path.name for path in sorted(SAMPLES.iterdir())
    ]


def test_the_demo_leaves_pictures_a_table_and_the_next_command(tmp_path, monkeypatch, tiny) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = demo()
    assert len(outcome.images) == 6
    assert all(image.overlay.is_file() and image.found for image in outcome.images)
    assert len(list((tmp_path / "ovseg-demo" / "panoptic").iterdir())) == 6
    assert "synthetic" in outcome.notice or "drawn shapes" in outcome.notice
    assert outcome.command.startswith("ovseg predict ovseg-demo/images --model tiny --labels")
    assert len(list((tmp_path / "ovseg-demo" / "images").iterdir())) == 6
    assert demo() == outcome


def test_missing_sample_images_are_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stage, "SAMPLES", tmp_path)
    with pytest.raises(InputError, match="install ovseg again"):
        demo(tmp_path / "out")


def test_the_next_command_can_be_pasted_whatever_the_folders_name(tmp_path, tiny) -> None:
    folder = tmp_path / "my demo"
    words = shlex.split(demo(folder).command)
    assert words[:3] == ["ovseg", "predict", str(folder / "images")]
