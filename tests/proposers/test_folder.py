import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from ovseg_cli.datasets.framing import frame_image
from ovseg_cli.errors import InputError, RecipeError
from ovseg_cli.proposers import FolderMasks, Proposer
from ovseg_cli.structures import FramedImage, Instances
from ovseg_cli.upsampling import upsample
from ovseg_cli.writers import rle_records

SIZE = (40, 56)


def rectangle(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


MASKS = torch.stack([rectangle(8, 24, 0, 16), rectangle(0, 40, 16, 56)])


def rle(mask: torch.Tensor) -> dict[str, object]:
    packed = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode()}


def framed(name: str | None = "photos/a.jpg", size: tuple[int, int] = SIZE) -> FramedImage:
    image = torch.zeros(3, *size, dtype=torch.uint8)
    found = frame_image(image, short_side=80, max_side=None)
    return FramedImage(found.pixels, found.frame, name=name)


def check(proposer: FolderMasks, scores: list[float]) -> None:
    proposals = proposer.propose(framed())
    assert isinstance(proposer, Proposer)
    assert proposals.mask_logits.shape == (2, 24, 32)  # 80 x 112, padded to 96 x 128, over 4
    assert proposals.scores.tolist() == pytest.approx(scores)
    assert torch.equal(upsample(proposals.mask_logits, proposals.frame) > 0, MASKS)


def test_a_folder_with_a_json_for_each_image(tmp_path):
    records = [
        {"segmentation": rle(mask), "predicted_iou": iou}
        for mask, iou in zip(MASKS, (0.9, 1.02), strict=True)
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "b.json").write_text("[]")
    proposer = FolderMasks(root=str(tmp_path))
    check(proposer, [0.9, 1.0])
    assert proposer.propose(framed("b.png")).mask_logits.shape == (0, 24, 32)
    with pytest.raises(InputError, match=r"c.json: no such file; write \[\] there"):
        proposer.propose(framed("c.png"))


def test_the_lines_that_predictions_are_written_in(tmp_path):
    found = Instances(MASKS, torch.tensor([0, 1]), torch.tensor([0.75, 0.5]))
    records = [
        record
        for image, name in enumerate(("b.jpg", "a.jpg"))
        for record in rle_records(
            found, image_id=image, file_name=name, category_ids=(1, 2), names=("x", "y")
        )
    ]
    path = tmp_path / "instances.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    proposer = FolderMasks(root=str(path))
    check(proposer, [0.75, 0.5])
    assert not len(proposer.propose(framed("c.jpg")).scores)


def test_a_record_without_a_score_has_one(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"segmentation": rle(m)} for m in MASKS]))
    check(FolderMasks(root=str(tmp_path)), [1.0, 1.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a.json: cannot be read as JSON"),
        ("{}", "a.json: is no list of records"),
        ("[3]", "a.json: record 0: no COCO run lengths"),
        ('[{"segmentation": [[1, 2, 3, 4]]}]', "record 0: no COCO run lengths"),
        ('[{"segmentation": {"size": [4, 4], "counts": [16]}}]', r"size \[4, 4\], the image is"),
        (
            '[{"segmentation": {"size": [40, 56], "counts": [2240]}, "score": NaN}]',
            "record 0: score nan is no number",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        FolderMasks(root=str(tmp_path)).propose(framed())


def test_lines_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "masks.jsonl"
    line = json.dumps({"file_name": "train/a.jpg", "segmentation": rle(MASKS[0])})
    path.write_text(f"{line}\n{{}}\n")
    with pytest.raises(InputError, match=r"masks.jsonl: line 2: no record with a 'file_name'"):
        FolderMasks(root=str(path))
    path.write_text(f"{line}\n{line.replace('train', 'val')}\n")
    with pytest.raises(InputError, match=r"line 2: val/a.jpg and train/a.jpg cannot be told apart"):
        FolderMasks(root=str(path))


def test_an_image_without_a_name_and_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="this image has none"):
        FolderMasks(root=str(tmp_path)).propose(framed(None))
    with pytest.raises(RecipeError, match=r"\[proposer\] root: .*nowhere: no such folder or file"):
        FolderMasks(root=str(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match="stride: 5 does not divide 32"):
        FolderMasks(root=str(tmp_path), stride=5)
