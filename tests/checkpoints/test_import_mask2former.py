"""Files in the layout of Mask2Former's public zoo become run directories that predict."""

import pytest
import torch
from released_mask2former import SIZES, released_mask2former, zoo_pickle
from tiny_architectures import tiny_vit

from ovseg_cli.proposers import Mask2Former
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.import_model import import_model


def mask2former(**options) -> Mask2Former:
    torch.manual_seed(3)
    return Mask2Former(**{**SIZES, "classes": 7, **options}).eval()


@pytest.mark.parametrize(
    "backbone",
    [
        {"backbone": "resnet50", "backbone_width": 8},
        {"backbone": "resnet101", "backbone_width": 8},
        {"backbone": "swin_tiny", "backbone_width": 12},
    ],
)
def test_a_zoo_file_predicts_any_words(tmp_path, backbone):
    architecture = tiny_vit(tmp_path)
    model = mask2former(**backbone)
    file = zoo_pickle(tmp_path / "model_final.pkl", released_mask2former(model))
    sets = [f"clip.architecture={architecture}", "clip.pretrained=null", "proposer.heads=4"]
    sets += ["framing.short_side=64"]
    report = import_model(file, "mask2former", tmp_path / "run", overrides=sets, shown=False)
    assert report.artifacts == {"proposals/released": len(model.state_dict())}
    assert report.unused == ("criterion.empty_weight",)
    assert report.commercial
    segmenter = Segmenter.from_run(Run(report.folder))
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    framed = segmenter.frame(image)
    found, expected = segmenter.propose(framed), model.propose(framed)
    assert torch.equal(found.mask_logits, expected.mask_logits)
    assert torch.equal(found.scores, expected.scores)
    result = segmenter.predict(image, "beer,wine")
    assert result.semantic.shape == (50, 70)
