import json

import pytest
import torch
from PIL import Image

from ovseg_cli.datasets.caption_records import (
    CaptionRecord,
    CaptionSource,
    coco_captions,
    read_captioned_image,
    splits_with_captions,
)
from ovseg_cli.errors import InputError

JSON_LINES = (
    '{"image": "a.jpg", "caption": "a dog"}\n\n{"image": "b/c.jpg", "captions": ["x", "y"]}'
)
CSV = 'image,caption\na.jpg,a dog\nb/c.jpg,x\n"b/c.jpg",y\n'
TSV = "split\tfilepath\ttitle\nval\ta.jpg\ta dog\nval\tb/c.jpg\tx\nval\tb/c.jpg\ty\n"
RECORDS = [
    CaptionRecord("a.jpg", 1, None, ("a dog",)),
    CaptionRecord("b/c.jpg", 2, None, ("x", "y")),
]


def listed(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return list(CaptionSource(folder, folder / name))


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", JSON_LINES), ("a.csv", CSV), ("a.tsv", TSV)]
)
def test_lists_of_captions(tmp_path, name, text):
    assert listed(tmp_path, name, text) == RECORDS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"image": "a.jpg"}', "line 1 needs an 'image' and a 'caption'"),
        ("a.jsonl", "[1]", "line 1 needs an 'image'"),
        ("a.jsonl", '{"image": "a.jpg", "captions": []}', "line 1 needs"),
        ("a.jsonl", "{", "line 1 is not valid JSON"),
        ("a.csv", "a,b\n1,2", "should name the columns image and caption"),
        ("a.csv", "", "should name the columns"),
        ("a.csv", "image,caption\na.jpg", "line 2 has 1 columns, the header 2"),
        ("a.csv", "image,caption\n../a.jpg,x", "leaves the data folder"),
        ("a.csv", "image,caption\na,x\nb,x\na,y", "captions of 'a' stand apart; sort the list"),
    ],
)
def test_bad_lists_are_one_sentence_with_the_line(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        listed(tmp_path, name, text)


def coco(folder, *, images=None, captions=None):
    (folder / "annotations").mkdir()
    size = {"height": 2, "width": 3}
    content = {
        "images": images or [{"id": i, "file_name": f"{i}.png", **size} for i in (7, 5, 6)],
        "annotations": captions
        or [{"image_id": i, "caption": text} for i, text in ((5, "x"), (7, "y"), (5, "z"))],
    }
    path = folder / "annotations" / "captions_val.json"
    path.write_text(json.dumps(content), encoding="utf-8")


def test_cocos_records_are_in_the_order_of_its_images(tmp_path):
    coco(tmp_path)
    (tmp_path / "images" / "val").mkdir(parents=True)
    source = coco_captions(tmp_path, "val")
    assert source.images == tmp_path / "images" / "val"
    assert list(source) == [
        CaptionRecord("7.png", 7, (2, 3), ("y",)),
        CaptionRecord("5.png", 5, (2, 3), ("x", "z")),
    ]
    assert splits_with_captions(tmp_path) == ("val",)


def test_what_coco_lacks_is_named(tmp_path):
    coco(tmp_path, images=[{"id": 5}])
    with pytest.raises(InputError, match="it should hold the split's images"):
        coco_captions(tmp_path, "val")
    with pytest.raises(InputError, match="captions are there for: val"):
        coco_captions(tmp_path, "train")
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match=r"images\[0\] has no integer 'id' or no 'file_name'"):
        list(coco_captions(tmp_path, "val"))


def test_an_image_without_a_size_is_read_upright(tmp_path):
    picture = Image.new("RGB", (3, 2))
    picture.putpixel((0, 0), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "a.png", exif=exif)
    upright = read_captioned_image(tmp_path, "a.png", None)
    assert upright.shape == (3, 3, 2)
    assert torch.equal(read_captioned_image(tmp_path, "a.png", (3, 2)), upright)
    assert read_captioned_image(tmp_path, "a.png", (2, 3)).shape == (3, 2, 3)
    with pytest.raises(InputError, match="no such file"):
        read_captioned_image(tmp_path, "b.png", None)
