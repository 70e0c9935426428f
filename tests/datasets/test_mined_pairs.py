import json

import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg_cli.datasets.mined_pairs import MinedPairs
from ovseg_cli.errors import InputError


def record(noun, image, mask):
    rle = coco_mask.encode(mask.numpy().astype("uint8").copy(order="F"))
    return {
        "image": image, "image_id": 3, "caption": 0, "noun": noun,
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        "box": [1, 0, 3, 2], "area": 4, "score": 0.25,
    }  # fmt: skip


MASK = torch.tensor([[0, 1, 1], [0, 1, 1]]).bool()


@pytest.fixture
def folder(tmp_path):
    """Two shards with a pair each, an empty one between them, and one image."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (3, 2), (9, 8, 7)).save(tmp_path / "images" / "a.png")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for number, nouns in enumerate((["wine glass", "dog"], [], ["dog"])):
        lines = [json.dumps(record(noun, "a.png", MASK)) + "\n" for noun in nouns]
        (pairs / f"shard-{number:05d}.jsonl").write_text("".join(lines))
    (pairs / "manifest.json").write_text(json.dumps({"images": str(tmp_path / "images")}))
    (pairs / "statistics.json").write_text("{}")
    return pairs


def test_pairs_are_read_one_at_a_time_across_shards(folder):
    pairs = MinedPairs(folder)
    assert len(pairs) == 3
    assert [pairs.noun(i) for i in range(3)] == ["wine glass", "dog", "dog"]
    assert [pair.noun for pair in pairs] == ["wine glass", "dog", "dog"]
    assert [pairs[i] for i in range(3)] == list(pairs)
    assert pairs.nouns == ("wine glass", "dog")
    assert torch.equal(pairs.mask(2), MASK)
    assert pairs.pixels(1)[:, 0, 0].tolist() == [9, 8, 7]
    assert (pairs[0].box, pairs[0].size, pairs[0].score) == ((1, 0, 3, 2), (2, 3), 0.25)
    with pytest.raises(IndexError):
        pairs[3]


def test_images_can_be_elsewhere(folder, tmp_path):
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="images: no such folder"):
        MinedPairs(folder)
    assert MinedPairs(folder, images=tmp_path / "moved").pixels(0).shape == (3, 2, 3)


def test_unfinished_and_damaged_pairs_are_refused(folder):
    (folder / "shard-00001.jsonl").write_text('{"noun": "dog"}\n')
    with pytest.raises(InputError, match=r"shard-00001\.jsonl: a line is no mined pair"):
        MinedPairs(folder)
    (folder / "statistics.json").unlink()
    with pytest.raises(InputError, match="no finished pairs there; make them with 'ovseg mine-"):
        MinedPairs(folder)
