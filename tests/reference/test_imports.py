"""Each released layout with a case's weights in it: imported, loaded, beside the case's results.

What a case has no weights for, such as text towers and MasQCLIP's proposer, is random.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import released_fcclip
import released_maft
import torch
from reference_cases import cases, load
from released_mask2former import SIZES, released_mask2former, released_name
from released_maskformer import released_name as name_in_file
from tiny_architectures import random_clip, tiny_convnext_of, tiny_vit
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.clip.architectures import weightless_clip
from ovseg_cli.proposers import FreeSeg, Mask2Former, MaskFormer
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.import_model import ImportReport, import_model
from ovseg_cli.structures import Frame, FramedImage, Proposals

CLOSE = {"atol": 2e-4, "rtol": 1e-4}
BACKBONE = {"backbone": "resnet50", "backbone_width": 8}
VIT = ("input_resolution", "patch_size", "width", "layers", "heads", "output_dim")
FREESEG = {
    "interaction.scale": "gamma",
    "interaction.pixel_norm": "layer_norm_q_1",
    "interaction.word_norm": "layer_norm_k_1",
    "interaction.query": "attn.q_proj",
    "interaction.key": "attn.k_proj",
    "interaction.value": "attn.v_proj",
    "interaction.output": "attn.out_proj",
}


def weights_of(tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A case's weights, without `weights.` and a prefix."""
    start = f"weights.{prefix}"
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def vit_of(folder: Path, metadata: dict[str, Any]) -> str:
    return tiny_vit(folder, **{key: metadata[key] for key in VIT})


def imported(
    folder: Path, state: dict[str, Tensor], system: str, *overrides: str
) -> tuple[ImportReport, Segmenter]:
    """The segmenter of a file with that state."""
    torch.save({"model": state, "iteration": 9999}, folder / "model_final.pth")
    file, run = folder / "model_final.pth", folder / "run"
    sets = ("framing.short_side=64", *overrides)
    report = import_model(file, system, run, overrides=sets, shown=False)
    return report, Segmenter.from_run(Run(run))


def small_mask2former(**options: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return released_mask2former(Mask2Former(**SIZES, **BACKBONE, **options))


@pytest.mark.parametrize("path", cases("masqclip_infer_"))
def test_masqclip(path: Path, tmp_path: Path) -> None:
    tensors, metadata = load(path)
    architecture = vit_of(tmp_path, metadata)
    state = small_mask2former() | prefixed("masqclip.", weights_of(tensors))
    report, segmenter = imported(
        tmp_path,
        state,
        "masqclip",
        f"clip.architecture={architecture}",
        "clip.pretrained=null",
        "proposer.heads=4",
    )
    assert set(report.artifacts) == {"clip/released", "proposals/released", "clip/masq"}
    assert report.unused == ("criterion.empty_weight",)
    assert not report.commercial
    assert segmenter.proposer is not None
    image, masks = tensors["input.image"], tensors["input.proposal_masks"][0]
    framed = padded(image, masks)
    encoded = segmenter.encode(framed, Proposals(masks, framed.frame, torch.ones(len(masks))))
    texts = F.normalize(tensors["input.text_embeddings"], dim=-1)
    logits = 100 * F.normalize(encoded.embeddings, dim=-1) @ texts.T
    scores = tensors["input.proposal_logits"][0].log_softmax(-1)[:, :1]
    found = (scores + logits.log_softmax(-1))[:, :-1]
    expected = tensors["mid.mask_cls_log"]
    torch.testing.assert_close(found.exp(), expected.exp(), atol=1e-4, rtol=1e-3)


def padded(image: Tensor, masks: Tensor) -> FramedImage:
    """An image in the frame that masks at a stride of 4 cover."""
    height, width = image.shape[1:]
    area = (4 * masks.shape[-2], 4 * masks.shape[-1])
    pixels = F.pad(image, (0, area[1] - width, 0, area[0] - height))
    return FramedImage(pixels, Frame(area, (height, width), (height, width)))


@pytest.mark.parametrize("path", cases("maskclip_rma_"))
def test_maskclip(path: Path, tmp_path: Path) -> None:
    """Its proposer has no class head."""
    tensors, metadata = load(path)
    architecture = vit_of(tmp_path, metadata)
    proposer = {n: t for n, t in small_mask2former().items() if ".class_embed." not in n}
    report, segmenter = imported(
        tmp_path,
        proposer | prefixed("maskclip.", weights_of(tensors)),
        "maskclip",
        f"clip.architecture={architecture}",
        "clip.pretrained=null",
        "proposer.heads=4",
    )
    assert "no class head" in report.notes[0]
    unread = [name for name in report.unused if name != "criterion.empty_weight"]
    assert all(re.search(r"conv[13]_added_params\.[23]\.", name) for name in unread)
    encoder, clip = segmenter.mask_encoder, segmenter.clip
    images = (tensors["input.image"] * clip.std + clip.mean) * 255
    with torch.no_grad():
        embeddings, masks = encoder(images, tensors["input.masks"])
    torch.testing.assert_close(masks[-1], tensors["output.pred_masks"], **CLOSE)
    expected = tensors["mid.ln_post"] @ clip.visual.proj
    torch.testing.assert_close(embeddings, expected, **CLOSE)
    framed = segmenter.frame(torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8))
    assert segmenter.propose(framed).scores.unique().tolist() == [0.5]


@pytest.mark.parametrize("path", cases("maft_losses_"))
def test_maft(path: Path, tmp_path: Path) -> None:
    tensors, metadata = load(path)
    architecture = vit_of(tmp_path, metadata)
    clip = random_clip(architecture) | prefixed("visual.", weights_of(tensors, "teacher."))
    student = weights_of(tensors, "student.")
    state = {
        **released_freeseg(architecture),
        **prefixed("clip_adapter.clip_model.", clip),
        **prefixed("IPCLIP.", student),
        **prefixed("T.", {name: tensor.clone() for name, tensor in student.items()}),
    }
    report, segmenter = imported(
        tmp_path,
        state,
        "maft",
        f"clip.architecture={architecture}",
        "proposer.heads=4",
        f"mask_encoder.start_layer={metadata['start_layer']}",
    )
    assert set(report.artifacts) == {"clip/base", "proposals/released", "clip/maft"}
    assert all(name.startswith("T.") for name in report.unused)
    assert Run(report.folder).recipe().section("clip") == {}
    assert "no licence" in report.licence
    framed = released_maft.framed_of(tensors, 0)
    encoded = segmenter.encode(framed, released_maft.proposals_of(tensors, 0, framed.frame))
    expected = tensors["mid.student_mask_embeddings"][0]
    torch.testing.assert_close(encoded.embeddings, expected, **CLOSE)
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    assert segmenter.predict(image, "beer,wine").semantic.shape == (40, 50)


def released_freeseg(architecture: str) -> dict[str, Tensor]:
    """Random weights under the released names, see `released_name`."""
    sizes = {key: size for key, size in SIZES.items() if key != "mask_dim"}
    torch.manual_seed(0)
    model = FreeSeg(
        clip=weightless_clip(architecture),
        embedding_hidden_dim=24,
        interaction_dim=64,
        backbone="resnet26c",
        backbone_width=8,
        **sizes,
    )
    state = {}
    for name, tensor in model.state_dict().items():
        ours = next((part for part in FREESEG if name == part or name.startswith(f"{part}.")), None)
        if ours is not None:
            state["sem_seg_head.interaction." + FREESEG[ours] + name.removeprefix(ours)] = tensor
        elif name == "no_object.weight":
            state["clip_adapter.non_object_embedding"] = tensor
        else:
            state[released_name(name)] = tensor
    return state


@pytest.mark.parametrize("path", cases("ovseg_"))
def test_ovseg(path: Path, tmp_path: Path) -> None:
    tensors, metadata = load(path)
    architecture = vit_of(tmp_path, metadata)
    torch.manual_seed(0)
    proposer = MaskFormer(
        clip=weightless_clip(architecture),
        backbone="swin_tiny",
        backbone_width=12,
        hidden_dim=32,
        mask_dim=16,
        embedding_hidden_dim=24,
        queries=5,
        heads=4,
        decoder_layers=2,
        feedforward_dim=16,
    )
    clip = random_clip(architecture) | prefixed("visual.", weights_of(tensors))
    state = {
        **{name_in_file(name): tensor for name, tensor in proposer.state_dict().items()},
        **prefixed("clip_adapter.clip_model.", clip),
        "clip_adapter.pixel_mean": torch.zeros(1, 3, 1, 1),
    }
    report, segmenter = imported(
        tmp_path,
        state,
        "ovseg",
        f"clip.architecture={architecture}",
        "proposer.heads=4",
        f"mask_encoder.threshold={metadata['mask_thr']}",
    )
    assert set(report.artifacts) == {"clip/base", "proposals/released", "clip/ovseg-mpt"}
    assert report.unused == ("clip_adapter.pixel_mean",)
    masks = tensors["input.pred_masks"][0]
    framed = padded(tensors["input.image"], masks)
    encoded = segmenter.encode(framed, Proposals(masks, framed.frame, torch.ones(len(masks))))
    assert torch.equal(encoded.valid, tensors["mid.valid"].bool())
    found = F.normalize(encoded.embeddings[encoded.valid], dim=-1)
    expected = F.normalize(tensors["mid.region_embeddings"], dim=-1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("path", cases("fcclip_full_"))
def test_fcclip(path: Path, tmp_path: Path) -> None:
    tensors, metadata = load(path)
    architecture = tiny_convnext_of(
        tmp_path, embed=metadata["embed"], convnext=metadata["convnext"]
    )
    clip = prefixed("backbone.clip_model.", random_clip(architecture))
    state = clip | released_fcclip.released_state(tensors)
    report, segmenter = imported(
        tmp_path,
        state,
        "fcclip",
        f"clip.architecture={architecture}",
        f"proposer.heads={metadata['heads']}",
    )
    assert set(report.artifacts) == {"clip/base", "proposals/released"}
    assert report.commercial
    images = released_fcclip.framed_images(tensors, metadata, tensors["mid.pred_masks"])
    for index, framed in enumerate(images):
        proposals = segmenter.propose(framed)
        torch.testing.assert_close(proposals.mask_logits, tensors["mid.pred_masks"][index], **CLOSE)
        encoded = segmenter.encode(framed, proposals)
        expected = tensors["mid.mask_clip_embedding"][index]
        torch.testing.assert_close(encoded.embeddings, expected, **CLOSE)
    scale = tensors["weights.backbone.clip_model.logit_scale"].exp().item()
    assert segmenter.clip.logit_scale == pytest.approx(scale)
