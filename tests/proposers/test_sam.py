import sys

import pytest
import torch

from ovseg_cli.datasets.framing import frame_image
from ovseg_cli.errors import CheckpointError, RecipeError
from ovseg_cli.proposers import TrainableProposer
from ovseg_cli.proposers.sam import SamMasks, _in_frame, stability
from ovseg_cli.structures import Frame
from ovseg_cli.upsampling import upsample


def config(transformers):
    return transformers.SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 0,
            "global_attn_indexes": [0],
            "num_pos_feats": 4,
            "mlp_dim": 16,
        },
        prompt_encoder_config={
            "hidden_size": 8,
            "image_size": 64,
            "patch_size": 8,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 8,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
            "iou_head_depth": 2,
        },
    )


@pytest.fixture(scope="module")
def tiny_sam(tmp_path_factory):
    """A folder with a SAM of random weights."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'sam'")
    torch.manual_seed(0)
    model = transformers.SamModel(config(transformers))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * max(parameter.shape[-1:], default=1) ** -0.5
    folder = tmp_path_factory.mktemp("sam")
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def lax(folder, **options):
    every = {"least_iou": 0.0, "least_stability": 0.0, "box_nms": 1.0, "points_per_side": 3}
    return SamMasks(weights=str(folder), **{**every, **options})


def framed(height=40, width=56):
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return frame_image(image, short_side=60, max_side=None)


def found_by(model, image):
    """With every mask sure: random weights predict any IoU."""
    forward = model.sam.forward

    def sure(**inputs):
        output = forward(**inputs)
        output.iou_scores = output.iou_scores.sigmoid()
        return output

    model.sam.forward = sure
    return model.propose(image)


def test_masks_at_every_point_in_the_images_frame(tiny_sam):
    model = lax(tiny_sam)
    assert isinstance(model, TrainableProposer)
    proposals = found_by(model, framed())
    count = len(proposals.scores)
    assert 0 < count <= 27
    assert proposals.mask_logits.shape == (count, 16, 24)  # 60 x 84, padded to 64 x 96, over 4
    assert ((proposals.scores >= 0) & (proposals.scores <= 1)).all()
    assert proposals.scores.tolist() == sorted(proposals.scores.tolist(), reverse=True)
    assert (proposals.mask_logits[:, 15:] == -20).all()
    assert (proposals.mask_logits[:, :, 21:] == -20).all()


def test_batches_of_points_do_not_matter(tiny_sam):
    whole = found_by(lax(tiny_sam), framed())
    parts = found_by(lax(tiny_sam, points_per_batch=2), framed())
    torch.testing.assert_close(whole.scores, parts.scores)
    torch.testing.assert_close(whole.mask_logits, parts.mask_logits, atol=1e-4, rtol=1e-4)


def test_a_batch_gives_what_its_images_give_alone(tiny_sam):
    images = torch.rand(2, 3, 64, 96) * 255
    model = lax(tiny_sam)
    alone = found_by(model, frame_image(images[1].byte(), short_side=None, max_side=None))
    together = model.propose_batch(images.byte().float())[1]
    assert torch.equal(together.mask_logits, alone.mask_logits)


def test_stricter_thresholds_leave_masks_out(tiny_sam):
    everything = found_by(lax(tiny_sam), framed())
    fewer = found_by(lax(tiny_sam, box_nms=0.5), framed())
    assert len(fewer.scores) < len(everything.scores)
    sure = found_by(lax(tiny_sam, least_iou=0.5), framed())
    assert (sure.scores > 0.5).all()
    nothing = found_by(lax(tiny_sam, least_iou=1.0), framed())
    assert nothing.mask_logits.shape == (0, 16, 24)


def test_stability_is_the_overlap_of_two_thresholds():
    masks = torch.tensor([[[2.0, 0.5, -0.5, -2.0]], [[3.0, 3.0, -3.0, -3.0]], [[-9.0] * 4]])
    assert stability(masks, 1.0).tolist() == pytest.approx([1 / 3, 1.0, 0.0])


def test_a_mask_in_sams_square_lies_where_it_was_in_the_image():
    """An image of 40 x 80 fills the upper half of a square of 64 pixels, of 16 cells a side."""
    frame = Frame(padded=(64, 96), resized=(40, 80), original=(40, 80))
    masks = torch.full((1, 16, 16), -5.0)
    masks[0, 2:6, 4:12] = 5.0  # of the 8 x 16 cells, each 5 pixels wide
    inside = upsample(_in_frame(masks, (32, 64), 64, frame), frame)[0] > 0
    expected = torch.zeros(40, 80, dtype=torch.bool)
    expected[10:30, 20:60] = True
    assert (inside != expected).float().mean() < 0.02


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match=r"pip install ovseg\[sam\]"):
        SamMasks(weights="facebook/sam-vit-huge")


def test_weights_that_cannot_be_had_say_what_to_fetch(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'sam'")

    def offline(*arguments, **options):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(transformers.SamModel, "from_pretrained", offline)
    message = r"sam-vit-huge: not here.*\(We couldn't connect\).*https://huggingface.co/facebook"
    with pytest.raises(CheckpointError, match=message):
        SamMasks()
    with pytest.raises(CheckpointError, match=r"needs the config.json and model.safetensors"):
        SamMasks(weights=str(tmp_path))


def test_weights_of_another_model_are_refused(tiny_sam, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(tiny_sam / "model.safetensors")
    tensors.pop(next(iter(sorted(tensors))))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((tiny_sam / "config.json").read_text())
    with pytest.raises(CheckpointError, match="weights of another model than SAM"):
        SamMasks(weights=str(tmp_path))
