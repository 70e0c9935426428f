"""Loading a CLIP: what cannot be had says so in one sentence."""

import urllib.request
from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_clip

from ovseg_cli.clip.loading import clip_from_artifact, load_open_clip, load_weights
from ovseg_cli.errors import CheckpointError

import open_clip  # isort: skip


def test_openai_weights_in_an_exact_gelu_architecture_are_refused() -> None:
    with pytest.raises(CheckpointError, match="use the architecture ViT-L-14-336-quickgelu"):
        load_open_clip(architecture="ViT-L-14-336", pretrained="openai")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no architecture 'ViT-Z'"):
        load_open_clip(architecture="ViT-Z", pretrained=None)


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"weights 'nonsense' of ViT-B-32 cannot be loaded"):
        load_open_clip(architecture="ViT-B-32", pretrained="nonsense")


def test_weights_that_cannot_be_fetched_name_the_way_without_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*arguments: object, **options: object) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", offline)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(CheckpointError, match=r"unreachable.*give the path of a weights file"):
        load_open_clip(architecture="RN50-quickgelu", pretrained="openai")


def test_a_text_file_as_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_text("not weights")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_open_clip(architecture="RN50-quickgelu", pretrained=str(path))


def test_weights_fill_every_parameter_or_none() -> None:
    source, target = tiny_clip(seed=1).model, tiny_clip(seed=2).model
    half = {name: value.half() for name, value in source.state_dict().items()}
    load_weights(target, half, source="clip/base")
    assert target.visual.proj.dtype == torch.float32
    torch.testing.assert_close(target.visual.proj, source.visual.proj, atol=1e-3, rtol=1e-3)
    half.pop("visual.proj")
    with pytest.raises(CheckpointError, match="clip/base: weights of another model"):
        load_weights(target, half, source="clip/base")


def test_an_artifact_of_another_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="make it again with `ovseg train-clip`"):
        clip_from_artifact({}, {"architecture": "large"})
